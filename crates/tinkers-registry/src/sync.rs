//! Synchronization primitives: those of the standard library, or of loom in its models.

#[cfg(not(tinkers_loom))]
pub(crate) use std::{
    sync::atomic::{AtomicUsize, Ordering},
    sync::{Condvar, Mutex, MutexGuard},
    thread::{ThreadId, current},
};

#[cfg(tinkers_loom)]
pub(crate) use loom::{
    sync::atomic::{AtomicUsize, Ordering},
    sync::{Condvar, Mutex, MutexGuard},
    thread::{ThreadId, current},
};

/// Locks `mutex`, even if a thread has panicked while it held the lock. The guarded state is then still valid, since every change under a
/// lock of this crate is a single step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Waits until `condvar` is notified. The lock of `guard` is released meanwhile.
pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar
        .wait(guard)
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
