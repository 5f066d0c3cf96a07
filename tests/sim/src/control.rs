//! Negative controls: bugs that are built into the client on purpose. They test that the checks of
//! the simulator find such bugs.

pub(crate) mod admission;
pub mod limiter;
pub(crate) mod progress;
pub mod queue;
pub(crate) mod shared_poll;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tinkers::SessionContext;
use tinkers_core::{
    Admission, AdmissionRequest, Admitted, AttemptOutcome, BoxFuture, Error, Ledger, Spawn,
    SubmitPermit, Task, Ticket,
};

use crate::control::admission::FaultyAdmission;
use crate::control::limiter::DeadlineAdmission;
use crate::control::queue::FaultyQueue;
use crate::control::shared_poll::{PauseSkippingClock, PollTaskSpawner};
use crate::named_enum::named_enum;
use crate::network::Network;
use crate::op::Op;
use crate::session_override::SessionOverride;

named_enum! {
    /// A negative control: a bug that is built into the client library or the engine. The checks of
    /// the simulation must find it.
    pub enum Control {
        /// A training call is submitted when its future is first polled, instead of when the method
        /// is called.
        LazySubmission = "lazy-submission",
        /// The client ignores `retry-after` hints.
        IgnoredHints = "ignored-hints",
        /// A response that reports success ends the backoff of its route class, even if the backoff
        /// began after the request was sent.
        SuccessClearsBackoff = "success-clears-backoff",
        /// A new, shorter backoff replaces a longer backoff that is still active.
        LastWriterWins = "last-writer-wins",
        /// The client reads the end of the backoff once, before other waits. The value may be out
        /// of date when the client uses it.
        StaleBackoff = "stale-backoff",
        /// An attempt that is aborted does not release its permit.
        LeakOnAbort = "leak-on-abort",
        /// The client retries requests that may have been applied, even if the server does not
        /// deduplicate.
        BlindRetry = "blind-retry",
        /// Some spawned tasks never run.
        LostTask = "lost-task",
        /// The heartbeat task never runs.
        BlockedHeartbeat = "blocked-heartbeat",
        /// The API key is logged.
        KeyInLog = "key-in-log",
        /// Recovered errors are logged, but the counters of recovered errors do not change.
        UncountedError = "uncounted-error",
        /// After a request has waited for a connection, the client sends the request without
        /// checking again whether the rate limiter still allows it.
        UncheckedSend = "unchecked-send",
        /// When a call collects its permit late, the client sends the request without checking
        /// again whether the rate limiter still allows it.
        UncheckedLatePermit = "unchecked-late-permit",
        /// A 429 response stops further requests only when its body has arrived, instead of when
        /// its head has arrived.
        RefusalAfterBody = "refusal-after-body",
        /// Calls that wait do not notice that their session was closed.
        IgnoredClose = "ignored-close",
        /// The time limit for retries begins when the call is made, instead of at its first
        /// attempt.
        RetryWindowFromCall = "retry-window-from-call",
        /// The deadline of the call is not passed to the admission queue.
        IgnoredDeadline = "ignored-deadline",
        /// The progress deadline is not reset when the admission queue advances.
        IgnoredQueueProgress = "ignored-queue-progress",
        /// After a pause, all waiting polls are sent at once instead of gradually.
        PollBurstAfterPause = "poll-burst-after-pause",
        /// An unexpected response to a shared poll ends the poll task. All calls that wait for this
        /// task fail.
        SharedPollEnds = "shared-poll-ends",
        /// Shared polls that return no new result follow each other without a pause.
        UnpacedPolls = "unpaced-polls",
        /// The shared poll acknowledges the same results again and again.
        EndlessAcks = "endless-acks",
        /// A failed acknowledgement is retried without a pause.
        SpinningAcks = "spinning-acks",
        /// Retries that hold an in-flight permit are admitted before all requests of other clients.
        UnfairRetries = "unfair-retries",
        /// The progress deadline is not reset when the submission queue of the model advances.
        IgnoredModelQueueProgress = "ignored-model-queue-progress",
        /// A nested request waits for the permit that its outer request holds.
        NestedDeadlock = "nested-deadlock",
        /// When a log subscriber panics, the wake-up of a waiting task is lost.
        LostWakeUps = "lost-wake-ups",
        /// Log subscribers run while the limiter is locked.
        SubscribersUnderLock = "subscribers-under-lock",
        /// The engine applies an optimizer step twice.
        StepTwice = "step-twice",
        /// The engine adds the gradients of a forward-backward pass twice.
        GradientTwice = "gradient-twice",
    }
}

/// The interval at which [`Control::LostTask`] loses tasks: one of every seven.
const LOST_TASK_PERIOD: u64 = 7;

impl Control {
    /// Returns the operation that the engine applies twice because of this bug, if any.
    pub const fn applied_twice(self) -> Option<Op> {
        match self {
            Self::StepTwice => Some(Op::OptimStep),
            Self::GradientTwice => Some(Op::ForwardBackward),
            _ => None,
        }
    }

    /// Returns a session with this bug. If the bug concerns another part of the simulation, returns
    /// the session unchanged. Tasks that are spawned on `spawner` are never polled late.
    pub fn inject(
        self,
        session: Arc<dyn SessionContext>,
        network: &Network,
        spawner: &Arc<dyn Spawn>,
    ) -> Arc<dyn SessionContext> {
        let mut caller = session.caller().clone();
        let mut task_spawner: Option<Box<dyn Spawn>> = None;
        match self {
            Self::SuccessClearsBackoff | Self::LastWriterWins | Self::StaleBackoff => {
                caller.admission = Arc::new(DeadlineAdmission {
                    limiter: Arc::clone(&network.faulty_limiter),
                    control: self,
                    clock: Arc::clone(&caller.time),
                });
            }
            Self::LeakOnAbort => {
                caller.admission = Arc::new(LeakyAdmission(Arc::clone(&caller.admission)));
            }
            Self::UncountedError => caller.recovered_errors = Arc::default(),
            Self::IgnoredClose => caller.closing = Arc::default(),
            Self::UncheckedSend
            | Self::UncheckedLatePermit
            | Self::RetryWindowFromCall
            | Self::IgnoredDeadline
            | Self::IgnoredQueueProgress
            | Self::PollBurstAfterPause => {
                caller.admission = Arc::new(FaultyAdmission {
                    inner: Arc::clone(&caller.admission),
                    control: self,
                    spawner: Arc::clone(spawner),
                    limiter: Arc::clone(&network.faulty_limiter),
                    clock: Arc::clone(&caller.time),
                });
            }
            Self::UnfairRetries | Self::LostWakeUps | Self::SubscribersUnderLock => {
                caller.admission = Arc::new(FaultyQueue {
                    inner: Arc::clone(&caller.admission),
                    control: self,
                    state: Arc::clone(&network.faulty_queue),
                });
            }
            Self::SharedPollEnds => {
                task_spawner = Some(Box::new(PollTaskSpawner(Arc::clone(&session))));
            }
            Self::UnpacedPolls => {
                task_spawner = Some(Box::new(PollTaskSpawner(Arc::clone(&session))));
                caller.time = Arc::new(PauseSkippingClock {
                    inner: Arc::clone(&caller.time),
                    monitor: network.monitor.clone(),
                });
            }
            Self::LostTask => {
                task_spawner = Some(Box::new(LossySpawner {
                    session: Arc::clone(&session),
                    count: Mutex::new(0),
                }));
            }
            Self::BlindRetry => {}
            _ => return session,
        }
        Arc::new(SessionOverride {
            session,
            caller,
            spawner: task_spawner,
            always_retries: self == Self::BlindRetry,
        })
    }
}

/// A spawner that never runs some of its tasks.
#[derive(Debug)]
struct LossySpawner {
    session: Arc<dyn SessionContext>,
    count: Mutex<u64>,
}

impl Spawn for LossySpawner {
    fn spawn(&self, future: BoxFuture<'static, ()>) -> Task {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count += 1;
        if !count.is_multiple_of(LOST_TASK_PERIOD) {
            return self.session.spawner().spawn(future);
        }
        std::mem::forget(future);
        Task::new(|| ())
    }
}

/// A spawner whose tasks never run.
#[derive(Debug)]
pub struct IdleSpawner;

impl Spawn for IdleSpawner {
    fn spawn(&self, future: BoxFuture<'static, ()>) -> Task {
        let future = Mutex::new(Some(future));
        Task::new(move || drop(future.lock().unwrap_or_else(PoisonError::into_inner).take()))
    }
}

/// An admission that leaks each permit when the permit is dropped.
#[derive(Debug)]
struct LeakyAdmission(Arc<dyn Admission>);

impl Admission for LeakyAdmission {
    fn admit(&self, request: AdmissionRequest) -> BoxFuture<'_, Result<Admitted, Error>> {
        Box::pin(async move {
            let Admitted {
                permit,
                in_flight_permit,
                arrival,
            } = self.0.admit(request).await?;
            let ledger = LeakyPermit(Mutex::new(Some(permit)));
            Ok(Admitted {
                permit: SubmitPermit::new(Arc::new(ledger), Ticket::default()),
                in_flight_permit,
                arrival,
            })
        })
    }
}

struct LeakyPermit(Mutex<Option<SubmitPermit>>);

impl Ledger for LeakyPermit {
    fn settle(&self, _: Ticket, outcome: AttemptOutcome) {
        let permit = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (permit, outcome) {
            (Some(permit), AttemptOutcome::Dropped) => std::mem::forget(permit),
            (Some(permit), outcome) => permit.settle(outcome),
            (None, _) => {}
        }
    }

    fn release(&self) {}
}

impl fmt::Debug for LeakyPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeakyPermit").finish_non_exhaustive()
    }
}
