//! The mutex of this crate: the standard library's, or loom's when a model runs.

#[cfg(tinkers_loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};
#[cfg(not(tinkers_loom))]
pub(crate) use std::sync::{Mutex, MutexGuard};
