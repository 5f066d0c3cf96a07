//! Asynchronous admission on top of the limits of `tinkers-limits`.
#![doc = include_str!("../README.md")]

mod byte_semaphore;
mod class_admission;
mod class_limiter;
mod deferred;
mod events;
mod limit_request;
mod limiter;
mod pending_admission;
mod settings;
mod snapshot;
mod sync;
mod wait_queue;

pub use byte_semaphore::{AcquireBytes, ByteSemaphore};
pub use events::{ClassCounts, LimiterEvent, LimiterEvents};
pub use limit_request::LimitRequest;
pub use limiter::{Limiter, LimiterAdmission};
pub use pending_admission::PendingAdmission;
pub use settings::{ClassSettings, LimiterSettings};
pub use snapshot::{ClassSnapshot, GateSnapshot, LimiterSnapshot};
pub use tinkers_limits::{LimitChange, Rate};
