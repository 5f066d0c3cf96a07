//! Detection of suspends of the machine.

use std::time::{Duration, SystemTime};

use tinkers_core::Timestamp;

/// The threshold of the suspend detection: if the date advances more than the monotonic clock, and the difference exceeds this threshold,
/// the machine counts as suspended. On Linux and macOS, the monotonic clock stands still during a suspend. If the date is set forward, this
/// also counts as a suspend, since the real idle times are unknown in both cases.
const THRESHOLD: Duration = Duration::from_millis(500);

/// Detects whether the machine was suspended between two readings of the clocks.
pub(super) struct SuspendDetector {
    last: (Timestamp, SystemTime),
}

impl SuspendDetector {
    pub(super) fn new(now: Timestamp, wall: SystemTime) -> Self {
        Self { last: (now, wall) }
    }

    /// Records a reading of the monotonic clock and of the date. Returns whether the machine was suspended since the previous reading.
    pub(super) fn was_suspended(&mut self, now: Timestamp, wall: SystemTime) -> bool {
        let (last, last_wall) = std::mem::replace(&mut self.last, (now, wall));
        let by_date = wall.duration_since(last_wall).unwrap_or_default();
        by_date.saturating_sub(now.since(last)) >= THRESHOLD
    }
}
