//! The mutex of this crate: that of the standard library, or of loom in its models.

#[cfg(tinkers_loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};
#[cfg(not(tinkers_loom))]
pub(crate) use std::sync::{Mutex, MutexGuard};
