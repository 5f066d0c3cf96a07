//! Elapsed time, as displayed to the user.
#![expect(clippy::disallowed_methods, reason = "the time is only displayed")]

use std::time::Instant;

/// A clock that measures the time since it was created.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn seconds(self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}
