//! Where the primitives of this crate come from: the standard library, or loom when a model runs.

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

/// The lock of `mutex`, also after a panic under it: what this crate guards is changed in one step or not at all.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Sleeps until `condvar` is notified, with the lock of `held` given back meanwhile.
pub(crate) fn wait<'a, T>(condvar: &Condvar, held: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar
        .wait(held)
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
