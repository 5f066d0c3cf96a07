//! A stopwatch and a short sleep. No other file of this package reads the real clock.

use std::time::{Duration, Instant};

/// A stopwatch that reads the real clock.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

#[expect(
    clippy::disallowed_methods,
    reason = "run lengths and costs are measured in real time"
)]
impl Stopwatch {
    /// Starts a stopwatch.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Returns the time since the start.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// Parks the thread for up to 50 µs. Loops that wait for a condition call this function between two
/// checks.
pub fn short_sleep() {
    std::thread::park_timeout(Duration::from_micros(50));
}
