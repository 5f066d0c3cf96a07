//! Stress tests of the limiter and the registry on real threads, with exact counts.
//!
//! A stress case derives every choice from a seed, runs on threads or step by step, and then checks
//! what was observed. The checks do not depend on the limiter. The tests of this package verify the
//! checks with limiters that have deliberate defects.
//!
//! The module [`clients`] runs whole clients over sockets, against a server in a separate process.
#![expect(clippy::exhaustive_enums, reason = "this package is not published")]

pub mod case;
pub mod check;
pub mod clients;
pub mod executor;
pub mod fair_semaphore;
pub mod limiter_subject;
pub mod log;
pub mod pauses;
pub mod plan;
pub mod polling_semaphore;
pub mod registry_churn;
pub mod stopwatch;
pub mod storm;
pub mod subject;
pub mod tasks;
pub mod waiters;
