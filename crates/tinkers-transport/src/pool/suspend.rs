//! Detection of suspends of the machine.

use std::time::{Duration, SystemTime};

use tinkers_core::Timestamp;

/// The threshold of the suspend detection. If the date advances by this much more than the monotonic clock, the machine was probably
/// suspended (put to sleep): on Linux and macOS, the monotonic clock stands still meanwhile. A date that is set forward has the same
/// effect, since the real idle times of connections are then unknown, too.
const THRESHOLD: Duration = Duration::from_millis(500);

/// A detector of whether the machine was suspended (put to sleep) between two readings of the clocks.
pub(super) struct SuspendDetector {
    last: (Timestamp, SystemTime),
}

impl SuspendDetector {
    pub(super) fn new(now: Timestamp, wall: SystemTime) -> Self {
        Self { last: (now, wall) }
    }

    /// Compares a reading of the monotonic clock and the date with the previous reading. Returns whether the machine was suspended in
    /// between.
    pub(super) fn was_suspended(&mut self, now: Timestamp, wall: SystemTime) -> bool {
        let (last, last_wall) = std::mem::replace(&mut self.last, (now, wall));
        let by_date = wall.duration_since(last_wall).unwrap_or_default();
        by_date.saturating_sub(now.since(last)) >= THRESHOLD
    }
}
