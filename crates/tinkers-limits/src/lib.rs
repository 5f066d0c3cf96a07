//! The rate-limit core of tinkers: decisions on atomics, without waiting and without a clock.
#![doc = include_str!("../README.md")]

mod backoff;
mod budget;
mod gate;

pub use backoff::CasBackoff;
pub use budget::{Drawn, Failure, RetryBudget};
pub use gate::{BackoffGate, Closed, Epoch};
