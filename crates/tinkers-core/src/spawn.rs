//! Background tasks, independent of the async runtime.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A spawner of background tasks on the runtime that does the I/O of the SDK.
pub trait Spawn: Send + Sync + fmt::Debug + 'static {
    /// Starts `work`. It runs until it completes or the returned [`Task`] is dropped.
    fn spawn(&self, work: BoxFuture<'static, ()>) -> Task;
}

/// The handle of a background task. Dropping the handle aborts the task, so a task does not outlive the future that waits for it.
pub struct Task {
    abort: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Task {
    /// Creates a handle from a function that aborts the task. `abort` must do nothing if the task has ended.
    pub fn new(abort: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self {
            abort: Some(Box::new(abort)),
        }
    }

    /// Lets the task run to completion without a handle.
    pub fn detach(mut self) {
        self.abort = None;
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(abort) = self.abort.take() {
            abort();
        }
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").finish_non_exhaustive()
    }
}
