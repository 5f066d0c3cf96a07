//! The rate-limit core of tinkers: decisions on atomics, without waiting and without a clock.
#![doc = include_str!("../README.md")]

mod backoff;
mod budget;
mod bytes;
mod constraints;
mod gate;
mod gcra;
mod growth;
mod ramp;
mod sync;
mod window;
mod word;

pub use backoff::CasBackoff;
pub use budget::{Drawn, Failure, RetryBudget};
pub use bytes::ByteBudget;
pub use constraints::{Blocked, Bounds, Constraints, Demand, Ending, Settled, Start, Ticket};
pub use gate::{BackoffGate, Closed, Entry, Epoch, GateState};
pub use gcra::{Gcra, Rate, Refusal};
pub use growth::{Change, Growth, RefusalSeen};
pub use ramp::Ramp;
pub use window::{ConcurrencyWindow, Full, Take, WindowView};
