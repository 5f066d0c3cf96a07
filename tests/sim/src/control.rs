//! The faults of older clients, built in on purpose, to see that the checks find them.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tinkers::SessionContext;
use tinkers::wire::{ClientConfig, DynamicConfig};
use tinkers_core::{
    Admission, Admitted, Ask, BoxFuture, BytesGuard, Caller, ClientId, Deduplication, Error, Fact,
    Ledger, Receipt, ServerProfile, Settlement, Spawn, SubmitPermit, Task,
};

use crate::departures::OldDepartures;
use crate::old_limiter::{OldAdmission, OldLimiter};
use crate::op::Op;

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
    /// The engine takes a step twice.
    StepTwice,
    /// The engine adds the gradients of a pass twice.
    GradientTwice,
}

impl Control {
    /// All of them.
    pub const ALL: [Self; 21] = [
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
            Self::UncountedSetback => "uncounted-setback",
            Self::UncheckedDeparture => "unchecked-departure",
            Self::UncheckedGrant => "unchecked-grant",
            Self::LateHead => "late-head",
            Self::ClosedUnheard => "closed-unheard",
            Self::WindowFromStart => "window-from-start",
            Self::DeadlineUnheard => "deadline-unheard",
            Self::QueueUnheard => "queue-unheard",
            Self::PollHerd => "poll-herd",
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
        limits: &Arc<OldLimiter>,
        prompt: &Arc<dyn Spawn>,
    ) -> Arc<dyn SessionContext> {
        let mut caller = session.caller().clone();
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
            Self::UncountedSetback => caller.setbacks = Arc::default(),
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
            Self::BlindRepeat | Self::LostTask => {}
            _ => return session,
        }
        Arc::new(Spoilt {
            spawner: LosesTasks {
                session: Arc::clone(&session),
                count: Mutex::new(0),
            },
            session,
            caller,
            fault: self,
        })
    }
}

/// A session with a fault in it.
#[derive(Debug)]
struct Spoilt {
    session: Arc<dyn SessionContext>,
    caller: Caller,
    spawner: LosesTasks,
    fault: Control,
}

impl SessionContext for Spoilt {
    fn caller(&self) -> &Caller {
        &self.caller
    }

    fn spawner(&self) -> &dyn Spawn {
        match self.fault {
            Control::LostTask => &self.spawner,
            _ => self.session.spawner(),
        }
    }

    fn session_id(&self) -> &str {
        self.session.session_id()
    }

    fn config(&self) -> &ClientConfig {
        self.session.config()
    }

    fn dynamic_config(&self) -> Arc<DynamicConfig> {
        self.session.dynamic_config()
    }

    fn profile(&self) -> Arc<ServerProfile> {
        let profile = self.session.profile();
        match self.fault {
            Control::BlindRepeat => Arc::new(
                (*profile)
                    .clone()
                    .learn(Fact::Deduplicates(Deduplication::Everything)),
            ),
            _ => profile,
        }
    }

    fn learn(&self, fact: Fact) {
        self.session.learn(fact);
    }

    fn check_open(&self) -> Result<(), Error> {
        self.session.check_open()
    }

    fn next_client(&self) -> ClientId {
        self.session.next_client()
    }

    fn next_model_seq(&self) -> u64 {
        self.session.next_model_seq()
    }

    fn next_sampling_seq(&self) -> u64 {
        self.session.next_sampling_seq()
    }

    fn progress_deadline(&self) -> Duration {
        self.session.progress_deadline()
    }

    fn operation_deadline(&self) -> Option<Duration> {
        self.session.operation_deadline()
    }

    fn response_bytes(&self, bytes: u64) -> BoxFuture<'_, BytesGuard> {
        self.session.response_bytes(bytes)
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
    fn admit(&self, ask: Ask) -> BoxFuture<'_, Result<Admitted, Error>> {
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
