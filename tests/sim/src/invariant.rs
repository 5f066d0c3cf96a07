//! The invariants that every run must satisfy.

/// An invariant of the client library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// A call completes exactly once, before its deadline.
    Completion,
    /// The outcome that a call reports agrees with what the server has applied.
    Outcome,
    /// Requests of a model are applied at most once, in the order of the calls.
    Order,
    /// The weights of a model are the result of its applied calls alone.
    Weights,
    /// A server without deduplication receives no pass or step twice.
    AtMostOnce,
    /// No request is sent before the `retry-after` hint of a refusal has elapsed.
    RetryAfter,
    /// The deadline of a backoff gate never decreases.
    Backoff,
    /// The rate of polls for a result is bounded.
    PollRate,
    /// A session does not expire while its client lives and the network works.
    SessionLiveness,
    /// At the end of a run no task, permit, byte or registry entry is left.
    NoLeaks,
    /// A panic is reported to the affected calls and ends nothing else.
    PanicIsolation,
    /// The API key is in no log line, error or `Debug` output.
    KeySecrecy,
    /// The number of log lines about a request grows only logarithmically with its polls.
    LogVolume,
    /// Each recovered error is counted exactly once.
    ErrorCounters,
    /// The run ends: there is neither a deadlock nor a livelock.
    Termination,
    /// No submission is sent after its session was closed.
    ClosedSession,
    /// A call that gets no connection is retried until its retry window has elapsed.
    RetryWindow,
    /// A call fails at once if its backoff gate opens after its deadline.
    AdmissionDeadline,
    /// A call in a queue that advances does not count as stalled.
    QueueProgress,
    /// The rate of polls increases gradually after a pause.
    PollRamp,
    /// The rate of shared polls and of acknowledgements is bounded.
    SharedPollRate,
    /// A sample fails only because of its own requests, not those of other samples.
    FailureIsolation,
    /// Clients are admitted in turn, and the requests of a client in FIFO order.
    Fairness,
    /// A request that a transport layer makes is sent or fails at once.
    NestedRequests,
    /// A log subscriber may read the state of the client: it runs without locks.
    SubscriberReentrancy,
}

/// A violation of an invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The violated invariant.
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
