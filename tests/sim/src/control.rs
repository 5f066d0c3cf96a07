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
    /// A negative control: a bug that the simulation builds into the client library or the engine.
    /// The checks of the simulation must find the bug.
    pub enum Control {
        /// The client submits a training call when its future is first polled, instead of when the
        /// method is called.
        LazySubmission = "lazy-submission",
        /// The client ignores the retry delays of 429 responses.
        IgnoredHints = "ignored-hints",
        /// A response that reports success ends the backoff of its route class, even if the backoff
        /// began after the request had been sent.
        SuccessClearsBackoff = "success-clears-backoff",
        /// A new, shorter backoff of a route class replaces a longer backoff that is still active.
        LastWriterWins = "last-writer-wins",
        /// The client reads the end of a backoff only once, and then waits for other conditions. If
        /// the backoff is extended meanwhile, the client sends its request too early.
        StaleBackoff = "stale-backoff",
        /// An aborted attempt to send a request does not return its permit to the rate limiter.
        LeakOnAbort = "leak-on-abort",
        /// The client retries requests that may have been applied, even if the server does not
        /// deduplicate requests.
        BlindRetry = "blind-retry",
        /// Some tasks that the client spawns never run.
        LostTask = "lost-task",
        /// The heartbeat task never runs.
        BlockedHeartbeat = "blocked-heartbeat",
        /// The client logs the API key.
        KeyInLog = "key-in-log",
        /// The client logs the errors from which it recovers, for example by a retry, but does not
        /// count them.
        UncountedError = "uncounted-error",
        /// After a request has waited for a connection, the client sends the request even if a 429
        /// response has closed the rate limiter gate of its route class meanwhile.
        UncheckedSend = "unchecked-send",
        /// If the task of a call runs only some time after the rate limiter has admitted its
        /// request, the client sends the request even if a 429 response has closed the gate
        /// meanwhile.
        UncheckedLatePermit = "unchecked-late-permit",
        /// The client stops sending further requests only when the body of a 429 response has
        /// arrived, instead of when its head has arrived.
        RefusalAfterBody = "refusal-after-body",
        /// Calls that wait do not notice that their session was closed, and continue to wait.
        IgnoredClose = "ignored-close",
        /// The time limit for retries begins when the call is made, instead of when its first
        /// attempt is sent.
        RetryWindowFromCall = "retry-window-from-call",
        /// The client does not pass the deadline of a call to the rate limiter. A call waits until
        /// its deadline for a gate that opens only later, instead of failing at once.
        IgnoredDeadline = "ignored-deadline",
        /// The progress deadline (the time without progress after which a call fails) is not
        /// extended when the queue of the rate limiter, in which the call waits, advances.
        IgnoredQueueProgress = "ignored-queue-progress",
        /// When the pause after a 429 response to a poll ends, all waiting polls are sent at once
        /// instead of gradually.
        PollBurstAfterPause = "poll-burst-after-pause",
        /// An unexpected response to a shared poll (a poll for all results of a sampling client)
        /// ends the task that makes these polls. All samples that wait for results from this task
        /// fail.
        SharedPollEnds = "shared-poll-ends",
        /// The client repeats a shared poll (a poll for all results of a sampling client) without a
        /// pause, even if the last one returned no new result.
        UnpacedPolls = "unpaced-polls",
        /// The client acknowledges the same results again and again. An acknowledgement tells the
        /// server that the client has received a result.
        EndlessAcks = "endless-acks",
        /// If an acknowledgement of received results fails, the client retries it at once, without
        /// a pause.
        SpinningAcks = "spinning-acks",
        /// The rate limiter admits retries that already hold an in-flight permit (one unit of the
        /// limit of requests in flight) before all requests of other clients.
        UnfairRetries = "unfair-retries",
        /// The progress deadline (the time without progress after which a call fails) is not
        /// extended when the submission queue of the model, in which the call waits, advances.
        IgnoredModelQueueProgress = "ignored-model-queue-progress",
        /// A request that a transport layer makes while it sends another request waits for the
        /// permit that this other request holds. So both requests wait for each other.
        NestedDeadlock = "nested-deadlock",
        /// After a log subscriber has panicked, the next wake-up of a task that waits for admission
        /// by the rate limiter is lost.
        LostWakeUps = "lost-wake-ups",
        /// The client calls log subscribers while the rate limiter is locked, so that a subscriber
        /// that reads its state deadlocks.
        SubscribersUnderLock = "subscribers-under-lock",
        /// The engine applies an optimizer step twice.
        StepTwice = "step-twice",
        /// The engine adds the gradients of a forward-backward pass twice.
        GradientTwice = "gradient-twice",
    }
}

/// The interval at which [`Control::LostTask`] loses tasks: one of every seven spawned tasks never
/// runs.
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

    /// Returns a session with this bug, based on `session`. If the bug is in another part of the
    /// simulation, returns `session` unchanged. Some bugs spawn tasks. `spawner` runs them without
    /// the delays that the simulated executor adds.
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

/// A spawner that never runs some of the tasks that are spawned on it.
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

/// A wrapper around the [`Admission`] of the rate limiter. If an attempt to send a request is
/// dropped, the wrapper leaks its permit, and the rate limiter never gets the permit back.
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
