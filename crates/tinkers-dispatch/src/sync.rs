//! The locks of this crate: those of the standard library, or of loom in its models.

#[cfg(not(tinkers_loom))]
pub(crate) use std::sync::{Mutex, MutexGuard};

#[cfg(tinkers_loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};

// Counters and ids: no decision depends on their order, so the models leave them out.
pub(crate) use std::sync::atomic::{AtomicU64, Ordering};

/// Locks `mutex`, also after a panic under the lock: every change of the guarded state is complete or not made.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
