//! The only place of this package that reads a clock: how long something took, and a nap of a thread.

use std::time::{Duration, Instant};

/// Time since its start.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

#[expect(
    clippy::disallowed_methods,
    reason = "how long a run goes on, and what a thing costs, is real time"
)]
impl Stopwatch {
    /// Starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Since the start.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// Lets other threads run for a moment. What it is called for is looked at again afterwards.
pub fn nap() {
    std::thread::park_timeout(Duration::from_micros(50));
}
