//! Admission with waiting for tinkers: the limits made async.
#![doc = include_str!("../README.md")]

mod admit;
mod after;
mod budget;
mod claim;
mod desk;
mod event;
mod lane;
mod limiter;
mod queue;
mod retry;
mod settings;
mod snapshot;
mod sync;

pub use admit::Admit;
pub use budget::{Acquire, ByteBudget};
pub use claim::Claim;
pub use event::{LaneCounts, LimiterEvent, LimiterEvents};
pub use limiter::{Limiter, LimiterAdmission};
pub use retry::SharedRetryBudget;
pub use settings::{LaneSettings, LimiterSettings};
pub use snapshot::{Gate, LaneSnapshot, LimiterSnapshot};
pub use tinkers_limits::{Change, Rate};
