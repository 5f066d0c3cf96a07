//! The faults of older clients, built in on purpose, to see that the checks find them.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tinkers::SessionContext;
use tinkers_core::{
    Admission, AdmissionRequest, Admitted, BoxFuture, Error, Ledger, Receipt, Settlement, Spawn,
    SubmitPermit, Task,
};

use crate::departures::OldDepartures;
use crate::network::Network;
use crate::old_limiter::OldAdmission;
use crate::old_polls::{NoPauses, PollTasks};
use crate::old_turns::OldQueue;
use crate::op::Op;
use crate::session::OtherSession;

/// A fault of the client library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Control {
    /// Calls are submitted when their task comes to it, and not when they are made.
    OvertakingSubmit,
    /// Hints are not heard.
    HintsNotHeard,
    /// A success clears a backoff that began after it was sent.
    SuccessClears,
    /// A shorter backoff takes the place of a longer one.
    LastWriterWins,
    /// The backoff is read once, before other waits.
    StaleSnapshot,
    /// What an aborted attempt held is not given back.
    LeakOnAbort,
    /// What may have been applied is sent again whatever the server does with it.
    BlindRepeat,
    /// A task that fails tells nobody.
    LostTask,
    /// Heartbeats wait behind other work for ever.
    BlockedHeart,
    /// The key is in a log line.
    KeyInLog,
    /// What is gone on from is logged and not counted.
    UncountedSetback,
    /// A request is not asked again whether it may leave, once it has a connection.
    UncheckedDeparture,
    /// A grant that is collected late is not asked again whether it holds.
    UncheckedGrant,
    /// A refusal is heard of when its body has come.
    LateHead,
    /// Calls that wait do not hear that their client was closed.
    ClosedUnheard,
    /// The time for repeats begins with the call, and not with its first attempt.
    WindowFromStart,
    /// The deadline of a call is not known where it waits to be let through.
    DeadlineUnheard,
    /// That a queue moves is no news for those in it.
    QueueUnheard,
    /// Polls come back all together after a pause.
    PollHerd,
    /// An answer to the shared poll of a sampling client that is no success ends it for good, and all its waiters with it.
    SharedPollEnds,
    /// The shared poll has no pauses while its answers bring nothing.
    UnpacedPolls,
    /// The shared poll acknowledges again and again what is acknowledged.
    UnendingPolls,
    /// An acknowledgement that is not taken is repeated without a pause.
    SpinningAcks,
    /// Retries that kept their permit in flight are served before the requests of every other client.
    FlightsFirst,
    /// That a model's queue moves is no news for the calls in it.
    ModelQueueUnheard,
    /// A request that a layer makes waits for room that the request under way holds.
    NestedWaits,
    /// A log subscriber that panics has waiters miss their wake-up.
    LostWakeUps,
    /// Log subscribers run while the limits are locked.
    LockedSubscribers,
    /// The engine takes a step twice.
    StepTwice,
    /// The engine adds the gradients of a pass twice.
    GradientTwice,
}

impl Control {
    /// All of them.
    pub const ALL: [Self; 30] = [
        Self::OvertakingSubmit,
        Self::HintsNotHeard,
        Self::SuccessClears,
        Self::LastWriterWins,
        Self::StaleSnapshot,
        Self::LeakOnAbort,
        Self::BlindRepeat,
        Self::LostTask,
        Self::BlockedHeart,
        Self::KeyInLog,
        Self::UncountedSetback,
        Self::UncheckedDeparture,
        Self::UncheckedGrant,
        Self::LateHead,
        Self::ClosedUnheard,
        Self::WindowFromStart,
        Self::DeadlineUnheard,
        Self::QueueUnheard,
        Self::PollHerd,
        Self::SharedPollEnds,
        Self::UnpacedPolls,
        Self::UnendingPolls,
        Self::SpinningAcks,
        Self::FlightsFirst,
        Self::ModelQueueUnheard,
        Self::NestedWaits,
        Self::LostWakeUps,
        Self::LockedSubscribers,
        Self::StepTwice,
        Self::GradientTwice,
    ];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OvertakingSubmit => "overtaking-submit",
            Self::HintsNotHeard => "hints-not-heard",
            Self::SuccessClears => "success-clears",
            Self::LastWriterWins => "last-writer-wins",
            Self::StaleSnapshot => "stale-snapshot",
            Self::LeakOnAbort => "leak-on-abort",
            Self::BlindRepeat => "blind-repeat",
            Self::LostTask => "lost-task",
            Self::BlockedHeart => "blocked-heart",
            Self::KeyInLog => "key-in-log",
            Self::UncountedSetback => "uncounted-recovered_error",
            Self::UncheckedDeparture => "unchecked-departure",
            Self::UncheckedGrant => "unchecked-grant",
            Self::LateHead => "late-head",
            Self::ClosedUnheard => "closed-unheard",
            Self::WindowFromStart => "window-from-start",
            Self::DeadlineUnheard => "deadline-unheard",
            Self::QueueUnheard => "queue-unheard",
            Self::PollHerd => "poll-herd",
            Self::SharedPollEnds => "shared-poll-ends",
            Self::UnpacedPolls => "unpaced-polls",
            Self::UnendingPolls => "unending-polls",
            Self::SpinningAcks => "spinning-acks",
            Self::FlightsFirst => "flights-first",
            Self::ModelQueueUnheard => "model-queue-unheard",
            Self::NestedWaits => "nested-waits",
            Self::LostWakeUps => "lost-wake-ups",
            Self::LockedSubscribers => "locked-subscribers",
            Self::StepTwice => "step-twice",
            Self::GradientTwice => "gradient-twice",
        }
    }

    /// The control of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|control| control.name() == name)
    }

    /// What a faulty engine applies twice.
    pub const fn twice(self) -> Option<Op> {
        match self {
            Self::StepTwice => Some(Op::OptimStep),
            Self::GradientTwice => Some(Op::ForwardBackward),
            _ => None,
        }
    }

    /// The session as a faulty client sees it; the same one where the fault is elsewhere. Tasks of `prompt` are never late.
    pub fn spoil(
        self,
        session: Arc<dyn SessionContext>,
        network: &Network,
        prompt: &Arc<dyn Spawn>,
    ) -> Arc<dyn SessionContext> {
        let limits = &network.old_limiter;
        let mut caller = session.caller().clone();
        let mut spawner: Option<Box<dyn Spawn>> = None;
        match self {
            Self::SuccessClears | Self::LastWriterWins | Self::StaleSnapshot => {
                caller.admission = Arc::new(OldAdmission {
                    limiter: Arc::clone(limits),
                    fault: self,
                    time: Arc::clone(&caller.time),
                });
            }
            Self::LeakOnAbort => {
                caller.admission = Arc::new(Leaky(Arc::clone(&caller.admission)));
            }
            Self::UncountedSetback => caller.recovered_errors = Arc::default(),
            Self::ClosedUnheard => caller.closing = Arc::default(),
            Self::UncheckedDeparture
            | Self::UncheckedGrant
            | Self::WindowFromStart
            | Self::DeadlineUnheard
            | Self::QueueUnheard
            | Self::PollHerd => {
                caller.admission = Arc::new(OldDepartures {
                    inner: Arc::clone(&caller.admission),
                    fault: self,
                    prompt: Arc::clone(prompt),
                    limiter: Arc::clone(limits),
                    time: Arc::clone(&caller.time),
                });
            }
            Self::FlightsFirst | Self::LostWakeUps | Self::LockedSubscribers => {
                caller.admission = Arc::new(OldQueue {
                    inner: Arc::clone(&caller.admission),
                    fault: self,
                    shared: Arc::clone(&network.old_turns),
                });
            }
            Self::SharedPollEnds => spawner = Some(Box::new(PollTasks(Arc::clone(&session)))),
            Self::UnpacedPolls => {
                spawner = Some(Box::new(PollTasks(Arc::clone(&session))));
                caller.time = Arc::new(NoPauses {
                    time: Arc::clone(&caller.time),
                    watch: network.watch.clone(),
                });
            }
            Self::LostTask => {
                spawner = Some(Box::new(LosesTasks {
                    session: Arc::clone(&session),
                    count: Mutex::new(0),
                }));
            }
            Self::BlindRepeat => {}
            _ => return session,
        }
        Arc::new(OtherSession {
            session,
            caller,
            spawner,
            repeats_blindly: self == Self::BlindRepeat,
        })
    }
}

/// Every so often a task is never heard of again.
#[derive(Debug)]
struct LosesTasks {
    session: Arc<dyn SessionContext>,
    count: Mutex<u64>,
}

impl Spawn for LosesTasks {
    fn spawn(&self, work: BoxFuture<'static, ()>) -> Task {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count += 1;
        if !count.is_multiple_of(7) {
            return self.session.spawner().spawn(work);
        }
        std::mem::forget(work);
        Task::new(|| ())
    }
}

/// A heart that is never given its turn.
#[derive(Debug)]
pub struct NoTurn;

impl Spawn for NoTurn {
    fn spawn(&self, work: BoxFuture<'static, ()>) -> Task {
        let kept = Mutex::new(Some(work));
        Task::new(move || drop(kept.lock().unwrap_or_else(PoisonError::into_inner).take()))
    }
}

/// An admission whose permits forget that they were dropped.
#[derive(Debug)]
struct Leaky(Arc<dyn Admission>);

impl Admission for Leaky {
    fn admit(&self, ask: AdmissionRequest) -> BoxFuture<'_, Result<Admitted, Error>> {
        Box::pin(async move {
            let Admitted {
                permit,
                flight,
                arrival,
            } = self.0.admit(ask).await?;
            let ledger = LeakyLedger(Mutex::new(Some(permit)));
            Ok(Admitted {
                permit: SubmitPermit::new(Arc::new(ledger), Receipt::default()),
                flight,
                arrival,
            })
        })
    }
}

struct LeakyLedger(Mutex<Option<SubmitPermit>>);

impl Ledger for LeakyLedger {
    fn settle(&self, _: Receipt, outcome: Settlement) {
        let permit = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (permit, outcome) {
            (Some(permit), Settlement::Dropped) => std::mem::forget(permit),
            (Some(permit), outcome) => permit.settle(outcome),
            (None, _) => {}
        }
    }

    fn land(&self) {}
}

impl fmt::Debug for LeakyLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeakyLedger").finish_non_exhaustive()
    }
}
