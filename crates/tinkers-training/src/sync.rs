//! The mutex of this crate: that of the standard library, or loom's in models.

#[cfg(not(tinkers_loom))]
pub(crate) use std::sync::{Mutex, MutexGuard};

#[cfg(tinkers_loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};

/// Locks `mutex`, ignoring poisoning: guarded state is changed in one step or not at all.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
