//! Admission with waiting for tinkers: the limits made async.
#![doc = include_str!("../README.md")]

mod admit;
mod budget;
mod lane;
mod limiter;
mod pool;
mod queue;
mod retry;
mod settings;

pub use budget::ByteBudget;
pub use lane::LaneState;
pub use limiter::{Limiter, LimiterAdmission};
pub use retry::SharedRetryBudget;
pub use settings::{LaneSettings, LimiterSettings};
