//! A counter of the jobs that write to storage, so that closing an engine can wait for them.

use std::cell::Cell;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tinkers_local::engine::Work;

thread_local! {
    static IS_ENGINE_THREAD: Cell<bool> = const { Cell::new(false) };
}

/// Marks the current thread as a thread that runs engine jobs. A marked thread never waits for pending writes, because the pending
/// write may be the job that this thread is running.
pub(super) fn mark_engine_thread() {
    IS_ENGINE_THREAD.set(true);
}

/// The number of submitted saves, and deletions, changes and copies of checkpoints, that have not finished.
#[derive(Debug, Default)]
pub(super) struct PendingWrites(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    pending: Mutex<usize>,
    finished: Condvar,
}

/// A guard for a pending write. The write counts as pending until the guard is dropped.
#[derive(Debug)]
pub(super) struct PendingWrite(Arc<Inner>);

impl PendingWrites {
    /// Counts `work` as a pending write if it writes to storage.
    pub(super) fn begin(&self, work: &Work) -> Option<PendingWrite> {
        let is_write = matches!(
            work,
            Work::Save { .. } | Work::DeleteCheckpoint { .. } | Work::CopyCheckpoint { .. }
        );
        if !is_write {
            return None;
        }
        *self.0.lock() += 1;
        Some(PendingWrite(Arc::clone(&self.0)))
    }

    /// Waits until no write is pending. Returns `false` if a write is still pending after `timeout`.
    pub(super) fn wait(&self, timeout: Duration) -> bool {
        let timeout = if IS_ENGINE_THREAD.get() {
            Duration::ZERO
        } else {
            timeout
        };
        let pending = self.0.lock();
        let waited = self
            .0
            .finished
            .wait_timeout_while(pending, timeout, |pending| *pending > 0);
        let (pending, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *pending == 0
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, usize> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PendingWrite {
    fn drop(&mut self) {
        *self.0.lock() -= 1;
        self.0.finished.notify_all();
    }
}
