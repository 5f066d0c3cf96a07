//! The time of a state transition on both clocks.

use std::time::SystemTime;

use tinkers_core::Timestamp;

/// The current time on two clocks: the monotonic clock for timeouts, and the wall clock for dates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The time on the monotonic clock.
    pub now: Timestamp,
    /// The date on the wall clock.
    pub wall: SystemTime,
}
