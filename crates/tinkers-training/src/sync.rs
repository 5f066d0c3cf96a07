//! Where the locks of this crate come from: the standard library, or loom when a model runs.

#[cfg(not(tinkers_loom))]
pub(crate) use std::sync::{Mutex, MutexGuard};

#[cfg(tinkers_loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};

/// The lock of `mutex`, also after a panic under it: what this crate guards is changed in one step or not at all.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
