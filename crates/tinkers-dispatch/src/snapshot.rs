//! What a limiter looks like at one moment, for logs, tests and whoever wants to see.

use tinkers_core::Timestamp;
use tinkers_limits::{GateState, WindowView};

use crate::event::ClassCounts;
use crate::lane::Lane;

/// Every lane at one moment. The lanes, and the parts of a lane, are read one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimiterSnapshot {
    /// Sampling submissions.
    pub sample: ClassSnapshot,
    /// Training submissions.
    pub train: ClassSnapshot,
    /// Polls.
    pub poll: ClassSnapshot,
    /// Listings and management.
    pub rest: ClassSnapshot,
}

/// What the gate of a lane is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Gate {
    /// Everything goes.
    Open,
    /// Nothing goes before this; then a probe does.
    ClosedUntil(Timestamp),
    /// A probe is under way. Another may go at this time.
    ProbingUntil(Timestamp),
}

/// One lane at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassSnapshot {
    /// What the gate is doing.
    pub gate: Gate,
    /// Requests that wait for admission.
    pub waiting: usize,
    /// Requests that were let through and have not noticed yet.
    pub uncollected: usize,
    /// Requests being sent.
    pub slots: u32,
    /// The most that may be sent at once now: the slots of the settings, or less while the start, or the way back after a pause, is
    /// slow.
    pub slots_allowed: u32,
    /// Bytes being sent.
    pub bytes: u64,
    /// Requests from admission to result, where the lane counts them.
    pub in_flight: u32,
    /// The most that may be in flight now.
    pub limit: u32,
    /// What the server's refusals have taught about that; `None` before the first.
    pub level: Option<u32>,
    /// How often something happened.
    pub counts: ClassCounts,
    /// Exchanges that a thread lost to another one. A test that sees none has not shown much.
    #[cfg(feature = "contention")]
    pub contention: u64,
}

impl ClassSnapshot {
    pub(crate) fn of(lane: &Lane) -> Self {
        let (waiting, uncollected, level) = lane.waiting();
        let WindowView {
            in_flight,
            unanswered,
            limit,
            ..
        } = lane.constraints.window().view();
        Self {
            gate: match lane.constraints.gate().state() {
                GateState::Open => Gate::Open,
                GateState::ClosedUntil(at) => Gate::ClosedUntil(Timestamp::from_origin(at)),
                GateState::ProbingSince(at) => {
                    Gate::ProbingUntil(Timestamp::from_origin(at).after(lane.patience()))
                }
            },
            waiting,
            uncollected,
            slots: unanswered,
            slots_allowed: lane.constraints.slots(),
            bytes: lane.constraints.bytes().taken(),
            in_flight,
            limit,
            level,
            counts: lane.counters.read(),
            #[cfg(feature = "contention")]
            contention: lane.constraints.contention(),
        }
    }
}
