//! Where background work runs, without naming a runtime.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

/// An owned future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Starts background tasks on the runtime that does the I/O of the SDK.
pub trait Spawn: Send + Sync + fmt::Debug + 'static {
    /// Starts `work`. It stops when it is done or when the returned [`Task`] is dropped.
    fn spawn(&self, work: BoxFuture<'static, ()>) -> Task;
}

/// A running background task, ended when this handle is dropped.
///
/// One owner for each task: whoever waits for its outcome holds the handle, so nothing runs on after nobody cares.
pub struct Task {
    abort: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Task {
    /// Wraps the runtime's way to abort a task; `abort` must be harmless on a task that has ended.
    pub fn new(abort: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self {
            abort: Some(Box::new(abort)),
        }
    }

    /// Lets the task run to its own end.
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
