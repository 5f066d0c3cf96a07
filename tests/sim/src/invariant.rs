//! The invariants that every run must satisfy.

/// An invariant of the client library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// A call completes exactly once, before its deadline.
    Completion,
    /// The outcome that a call reports agrees with the operations that the server has applied.
    Outcome,
    /// The server applies the requests of a model at most once, in the order of the calls.
    Order,
    /// The weights of a model depend only on the applied calls of this model.
    Weights,
    /// A server without deduplication receives no forward-backward pass or optimizer step twice.
    AtMostOnce,
    /// After a 429, no request is sent before the `retry-after` delay has passed.
    RetryAfter,
    /// The time at which a rate limiter gate will open never moves to an earlier time.
    Backoff,
    /// The rate of polls for a single result is bounded.
    PollRate,
    /// A session does not expire while its client exists and the network works.
    SessionLiveness,
    /// At the end of a run, the client has released all tasks, permits, reserved bytes and registry
    /// entries.
    NoLeaks,
    /// A panic is reported to the affected calls, and all other calls continue.
    PanicIsolation,
    /// The API key is not in any log line, error or `Debug` output.
    KeySecrecy,
    /// The number of log lines about a request grows at most with the logarithm of the number of
    /// polls for its result.
    LogVolume,
    /// Each recovered error is counted exactly once.
    ErrorCounters,
    /// The run ends without a deadlock or a livelock.
    Termination,
    /// The client sends no submission after its session was closed.
    ClosedSession,
    /// A call that gets no connection is retried until the time limit for retries has passed.
    RetryWindow,
    /// A call fails at once if the gate of its route class opens only after the deadline of the
    /// call.
    AdmissionDeadline,
    /// A call does not fail as stalled while the queue in which it waits advances.
    QueueProgress,
    /// After a pause, the rate of polls increases gradually.
    GradualPolls,
    /// The rate of shared polls and of acknowledgements is bounded.
    SharedPollRate,
    /// A sample fails only because of its own requests, and not because of requests of other
    /// samples.
    FailureIsolation,
    /// Clients are admitted in turn, and the requests of a client in FIFO order.
    Fairness,
    /// A request that a transport layer makes while it sends another request is either sent at once
    /// or fails at once.
    NestedRequests,
    /// A log subscriber may read the state of the client, because no lock is held while the
    /// subscriber runs.
    SubscriberReentrancy,
}

/// A violation of an invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The invariant that was violated.
    pub invariant: Invariant,
    /// A description of the violation.
    pub text: String,
}

impl Violation {
    /// Creates a violation of `invariant`.
    pub fn new(invariant: Invariant, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { invariant, text }
    }
}
