//! A conformance test suite for Tinker servers of any dialect; the client detects the dialect.
//!
//! Each check uses the public API of `tinkers`. A check passes, reports that the server does not
//! offer the feature, or fails. The report of a failed check contains the last requests and
//! responses. Run the suite with `cargo xtask conformance --base-url URL --model NAME`.
#![expect(clippy::exhaustive_enums, reason = "this package is not published")]

mod checks;
mod context;
mod recorder;
mod report;
mod run;
mod verdict;

pub use checks::{Check, Profile, checks};
pub use context::{Connect, Context, ModelKind, Service, Settings};
pub use recorder::{Exchange, Recorder};
pub use report::{Report, Row};
pub use run::{Limits, run};
pub use verdict::{CheckError, CheckResult, Verdict};
