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

pub use admit::PendingAdmission;
pub use budget::{Acquire, ByteBudget};
pub use claim::LimitRequest;
pub use event::{ClassCounts, LimiterEvent, LimiterEvents};
pub use limiter::{Limiter, LimiterAdmission};
pub use retry::SharedRetryBudget;
pub use settings::{ClassSettings, LimiterSettings};
pub use snapshot::{ClassSnapshot, Gate, LimiterSnapshot};
pub use tinkers_limits::{Change, Rate};
