//! The mutex of this crate: the standard library's, or loom's in loom models.

#[cfg(not(tinkers_loom))]
pub(crate) use std::sync::{Mutex, MutexGuard};

#[cfg(tinkers_loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};

/// Locks `mutex` even if a thread panicked while it held the lock. This is sound, since no code panics between two changes of the
/// guarded state.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
