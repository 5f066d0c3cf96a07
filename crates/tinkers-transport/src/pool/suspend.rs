//! Detection of suspends of the machine.

use std::time::{Duration, SystemTime};

use tinkers_core::Timestamp;

/// The lead of the date over the monotonic clock that counts as a suspend. On Linux and macOS, the monotonic clock stands still during a
/// suspend. Setting the date forward has the same effect, and is treated the same: the real idle times are unknown in both cases.
const THRESHOLD: Duration = Duration::from_millis(500);

/// Detects a suspend between two readings of the clocks.
pub(super) struct SuspendDetector {
    last: (Timestamp, SystemTime),
}

impl SuspendDetector {
    pub(super) fn new(now: Timestamp, wall: SystemTime) -> Self {
        Self { last: (now, wall) }
    }

    /// Takes a reading, and returns whether the machine was suspended since the previous one.
    pub(super) fn was_suspended(&mut self, now: Timestamp, wall: SystemTime) -> bool {
        let (last, last_wall) = std::mem::replace(&mut self.last, (now, wall));
        let by_date = wall.duration_since(last_wall).unwrap_or_default();
        by_date.saturating_sub(now.since(last)) >= THRESHOLD
    }
}
