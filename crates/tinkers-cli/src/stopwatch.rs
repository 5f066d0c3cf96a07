//! How long things took, for people to read.
#![expect(
    clippy::disallowed_methods,
    reason = "measures for display, decides nothing"
)]

use std::time::Instant;

/// Runs from its making on.
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
