//! Snapshots of a limiter.

use tinkers_core::Timestamp;
use tinkers_limits::{GateState, WindowView};

use crate::class_limiter::ClassLimiter;
use crate::events::ClassCounts;

/// The state of all classes. The classes, and the fields of a class, are read one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimiterSnapshot {
    /// Sampling submissions.
    pub sample: ClassSnapshot,
    /// Training submissions.
    pub train: ClassSnapshot,
    /// Polls.
    pub poll: ClassSnapshot,
    /// Listings and administration.
    pub rest: ClassSnapshot,
}

/// The state of a class's gate, as timestamps of the clients' clocks. Unlike [`GateState`], which is in time since the clock's origin,
/// it says until when a probe has the gate to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum GateSnapshot {
    /// Requests are admitted.
    Open,
    /// No request is admitted before this time; then one is, as a probe.
    ClosedUntil(Timestamp),
    /// A probe is in progress. Without a response, another one may be sent at this time.
    ProbingUntil(Timestamp),
}

/// The state of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassSnapshot {
    /// The state of the gate.
    pub gate: GateSnapshot,
    /// Requests that wait for admission.
    pub waiting: usize,
    /// Granted requests that were not polled since.
    pub uncollected: usize,
    /// Requests being sent.
    pub slots: u32,
    /// The maximum number of requests being sent now: the slots of the settings, or less during the slow start or the ramp after a pause.
    pub slots_allowed: u32,
    /// Bytes being sent.
    pub bytes: u64,
    /// Requests in flight, from admission to the result, if the class counts them.
    pub in_flight: u32,
    /// The maximum number of requests in flight now.
    pub limit: u32,
    /// The limit that was learned from refusals; `None` before the first one.
    pub level: Option<u32>,
    /// The counters.
    pub counts: ClassCounts,
    /// The number of compare-and-swap operations that a thread lost to another one.
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
                GateState::ProbingSince(at) => GateSnapshot::ProbingUntil(
                    Timestamp::from_origin(at).after(limiter.probe_timeout()),
                ),
            },
            waiting,
            uncollected,
            slots: unanswered,
            slots_allowed: limiter.constraints.slots(),
            bytes: limiter.constraints.bytes().taken(),
            in_flight,
            limit,
            level,
            counts: limiter.counters.read(),
            #[cfg(feature = "contention")]
            contention: limiter.constraints.contention(),
        }
    }
}
