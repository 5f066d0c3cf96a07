//! The locks of this crate: those of the standard library, or of loom in its models.

#[cfg(not(tinkers_loom))]
pub(crate) use std::sync::{Mutex, MutexGuard};

#[cfg(tinkers_loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};

// These atomics are not loom's: they are counters and ids on whose order no decision depends.
pub(crate) use std::sync::atomic::{AtomicU64, Ordering};

/// Locks `mutex`, even if a thread has panicked while it held the lock. The guarded state is then still valid, since every change of it is
/// either complete or not made.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
