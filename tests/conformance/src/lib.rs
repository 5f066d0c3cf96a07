//! One suite over any Tinker server: whatever dialect it speaks, the client finds out, and this says what came of it.
//!
//! A check is a small program over the facade. It passes, finds that the server does not offer what it is about, or fails with
//! the last exchanges that it saw. `cargo xtask conformance --base-url URL --model NAME` runs it.

mod checks;
mod context;
mod recorder;
mod report;
mod run;
mod verdict;

pub use checks::{Check, Profile, checks};
pub use context::{Connect, Context, Engine, Service, Setting};
pub use recorder::{Exchange, Recorder};
pub use report::{Report, Row};
pub use run::{Limits, run};
pub use verdict::{Findings, Stop, Verdict};
