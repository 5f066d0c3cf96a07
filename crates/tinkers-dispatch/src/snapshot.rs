//! Snapshots of a limiter.

use tinkers_core::Timestamp;
use tinkers_limits::{ConcurrencyWindow, GateState, WindowView};

use crate::class_limiter::ClassLimiter;
use crate::events::ClassCounts;

/// The state of all route classes with limits. Its parts are read one after the other, not at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimiterSnapshot {
    /// The state of the limits of sampling submissions.
    pub sample: ClassSnapshot,
    /// The state of the limits of training submissions.
    pub train: ClassSnapshot,
    /// The state of the limits of polls for results.
    pub poll: ClassSnapshot,
    /// The state of the limits of listings and administration.
    pub rest: ClassSnapshot,
}

/// The state of the gate of a route class, which stops requests after a 429 response. Times are timestamps of the client's clock
/// (`ServiceClient::now`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum GateSnapshot {
    /// The gate is open: requests are admitted.
    Open,
    /// The gate is closed: no request is admitted before this time. Then one request is admitted, and its response decides whether the gate
    /// opens.
    ClosedUntil(Timestamp),
    /// The gate waits for the response to the first request after a rate-limit pause. If there is none by this time, another request may
    /// take its place.
    FirstRequestUntil(Timestamp),
}

/// The state of the limits of one route class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassSnapshot {
    /// The state of the gate, which stops requests after a 429 response.
    pub gate: GateSnapshot,
    /// The number of requests that wait for admission.
    pub waiting: usize,
    /// The number of requests that were admitted from the queue, but whose future has not been polled since.
    pub uncollected: usize,
    /// The number of requests that were sent and have no response yet.
    pub slots: u32,
    /// The maximum number of requests without a response at present: the configured slots, or fewer during the slow start or the gradual
    /// increase after a rate-limit pause.
    pub slots_allowed: u32,
    /// The number of bytes that are being sent.
    pub bytes: u64,
    /// The number of requests in flight, from admission to the result. Zero if the class has no in-flight limit.
    pub in_flight: u32,
    /// The maximum number of requests in flight at present, or `None` if the class has no such limit. Samples have none if the server lets
    /// the client poll for all of their results at once, as the embedded server does.
    pub limit: Option<u32>,
    /// The in-flight limit that the client has learned from refusals (429 responses), or `None` if it has learned none.
    pub level: Option<u32>,
    /// Statistics of the class: the numbers of admissions, waits, wake-ups and refusals.
    pub counts: ClassCounts,
    /// The number of compare-and-swap attempts that failed so far because another thread changed the value first.
    #[cfg(feature = "contention")]
    pub contention: u64,
}

impl ClassSnapshot {
    pub(crate) fn of(limiter: &ClassLimiter) -> Self {
        let (waiting, uncollected, level) = limiter.waiting();
        let WindowView {
            in_flight,
            unanswered,
            limit,
            ..
        } = limiter.constraints.window().view();
        Self {
            gate: match limiter.constraints.gate().state() {
                GateState::Open => GateSnapshot::Open,
                GateState::ClosedUntil(at) => GateSnapshot::ClosedUntil(Timestamp::from_origin(at)),
                GateState::FirstRequestSince(at) => GateSnapshot::FirstRequestUntil(
                    Timestamp::from_origin(at).after(limiter.first_request_timeout()),
                ),
            },
            waiting,
            uncollected,
            slots: unanswered,
            slots_allowed: limiter.constraints.slots(),
            bytes: limiter.constraints.bytes().taken(),
            in_flight,
            limit: (limit < ConcurrencyWindow::MAX).then_some(limit),
            level,
            counts: limiter.counters.read(),
            #[cfg(feature = "contention")]
            contention: limiter.constraints.contention(),
        }
    }
}
