//! Counts the jobs that write to storage, so that a shutdown can wait for them.

use std::cell::Cell;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tinkers_local::engine::Work;

thread_local! {
    static IS_ENGINE_THREAD: Cell<bool> = const { Cell::new(false) };
}

/// Marks this thread as one that runs jobs. It never waits for writes, which might be its own.
pub(super) fn is_engine_thread() {
    IS_ENGINE_THREAD.set(true);
}

/// The saves and deletions that were given to an engine and have not ended.
#[derive(Debug, Default)]
pub(super) struct Writes(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    open: Mutex<usize>,
    ended: Condvar,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Write(Arc<Inner>);

impl Writes {
    /// Counts `work` where it writes.
    pub(super) fn begin(&self, work: &Work) -> Option<Write> {
        if !matches!(work, Work::Save { .. } | Work::DeleteCheckpoint { .. }) {
            return None;
        }
        *self.0.lock() += 1;
        Some(Write(Arc::clone(&self.0)))
    }

    /// Waits until none is open. Whether that came within `patience`.
    pub(super) fn wait(&self, patience: Duration) -> bool {
        let patience = if IS_ENGINE_THREAD.get() {
            Duration::ZERO
        } else {
            patience
        };
        let open = self.0.lock();
        let waited = self
            .0
            .ended
            .wait_timeout_while(open, patience, |open| *open > 0);
        let (open, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *open == 0
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, usize> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        *self.0.lock() -= 1;
        self.0.ended.notify_all();
    }
}
