//! The invariants that every run must satisfy.

/// An invariant of the client library that the simulation checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// A call completes exactly once, before its deadline.
    Completion,
    /// If a call succeeds, the server has applied all of its operations. If its error says that
    /// nothing was sent, the server has applied none of them.
    Outcome,
    /// The server applies the operations of a model at most once, in the order in which they were
    /// called.
    Order,
    /// The weights of a model depend only on the calls on this model that the server has applied.
    Weights,
    /// A server without deduplication receives no forward-backward pass or optimizer step twice.
    AtMostOnce,
    /// After a 429 response, no request of the same route class is sent before the `retry-after`
    /// delay has passed.
    RetryAfter,
    /// The end of the pause after a 429 response, as reported by the rate limiter, never moves to
    /// an earlier time.
    Backoff,
    /// The rate of polls for a single result is bounded.
    PollRate,
    /// A session does not expire while its client exists and the network works.
    SessionLiveness,
    /// At the end of a run, the client has released all tasks, permits, reserved bytes and registry
    /// entries.
    NoLeaks,
    /// A panic, for example in a transport layer, is reported to the affected calls, and all other
    /// calls continue.
    PanicIsolation,
    /// The API key is not in any log line, error or `Debug` output of the client.
    KeySecrecy,
    /// The number of log lines about a request grows at most with the logarithm of the number of
    /// polls for the result of the request.
    LogVolume,
    /// Each error from which the client has recovered is counted exactly once.
    ErrorCounters,
    /// The run ends: there is no deadlock and no livelock.
    Termination,
    /// The client sends no submission after its session was closed.
    ClosedSession,
    /// A call that gets no connection is retried until the time limit for retries has passed.
    RetryWindow,
    /// A call fails at once if a 429 response has stopped the requests of its route class until
    /// after the deadline of the call.
    AdmissionDeadline,
    /// A call does not fail for lack of progress as long as the queue in which it waits advances.
    QueueProgress,
    /// When the pause after a 429 response to a poll ends, the number of polls in flight increases
    /// gradually.
    GradualPolls,
    /// The rates of shared polls (polls for all results of a sampling client) and of
    /// acknowledgements of received results are bounded.
    SharedPollRate,
    /// A sample fails only because of its own requests, and not because requests of other samples
    /// failed.
    FailureIsolation,
    /// The rate limiter admits requests of different waiting clients in turn, and the requests of
    /// one client in FIFO order.
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
    /// The violated invariant.
    pub invariant: Invariant,
    /// What was observed that violates the invariant.
    pub text: String,
}

impl Violation {
    /// Creates a violation of `invariant` with the description `text`.
    pub fn new(invariant: Invariant, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { invariant, text }
    }
}
