//! The runtime of the SDK: one per process, or one of the caller.

use std::fmt;
use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};

use tinkers_core::{BoxFuture, Clock, Error, Spawn, Task};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::clock::TokioClock;
use crate::shared_runtime;

/// A handle of the tokio runtime that does the I/O of the SDK. Clones are cheap and refer to the same runtime.
///
/// The tasks of the runtime do not depend on the caller's executor, which may be blocked, dropped or missing.
///
/// # `fork`
/// A forked child has only the thread that called `fork`, so the SDK does not work in the child: the threads of [`IoRuntime::shared`] and
/// of heartbeats do not exist, calls never end, and the connections are shared with the parent. The child must neither use
/// clients that were created before the fork nor create new ones. Either call `exec` after `fork`, as [`std::process::Command`] does,
/// or create the first client after the fork. The parent is not affected, as long as the child does not use its connections.
#[derive(Clone)]
pub struct IoRuntime {
    handle: Handle,
    clock: Arc<TokioClock>,
}

static SHARED: OnceLock<IoRuntime> = OnceLock::new();

impl IoRuntime {
    /// Returns the runtime that all clients of the process share by default. The runtime is started on first use, on threads named
    /// `tinkers-io`, and never shut down.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](tinkers_core::ErrorKind::Io) if the operating system provides no thread.
    pub fn shared() -> Result<Self, Error> {
        if let Some(runtime) = SHARED.get() {
            return Ok(runtime.clone());
        }
        let handle = shared_runtime::handle()?;
        Ok(SHARED.get_or_init(|| Self::from_handle(handle)).clone())
    }

    /// Sets the number of worker threads that [`IoRuntime::shared`] starts with; one by default.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](tinkers_core::ErrorKind::Configuration) if the runtime already runs with another number of threads.
    pub fn set_shared_threads(threads: NonZeroUsize) -> Result<(), Error> {
        shared_runtime::set_threads(threads)
    }

    /// Creates a handle of a tokio runtime of the caller. The I/O and time drivers of the runtime must be enabled, and the caller must keep
    /// the runtime running: requests in flight fail when the runtime ends.
    pub fn from_handle(handle: Handle) -> Self {
        let clock = Arc::new(TokioClock::new(handle.clone()));
        Self { handle, clock }
    }

    /// Returns a clock that uses the time and the timers of this runtime.
    pub fn clock(&self) -> Arc<dyn Clock> {
        let clock: Arc<dyn Clock> = Arc::<TokioClock>::clone(&self.clock);
        clock
    }

    /// Runs `work` in the context of this runtime, and blocks the calling thread until `work` has completed.
    ///
    /// # Panics
    /// Panics if called from asynchronous code, since the call would block the thread of the runtime.
    pub fn block_on<F: Future>(&self, work: F) -> F::Output {
        self.handle.block_on(work)
    }

    /// Starts a task on this runtime that cannot be aborted and ends by itself, such as the task that does the I/O of a connection.
    pub(crate) fn launch(&self, work: impl Future<Output = ()> + Send + 'static) {
        drop(self.handle.spawn(work));
    }

    /// Runs `work` in a task of this runtime, and waits for its result, on any executor. Returns `None` if the task panicked or the runtime
    /// has ended.
    ///
    /// Dropping the future aborts the task.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (result, received) = oneshot::channel();
        let task = self.spawn(Box::pin(async move {
            // The receiver may be gone.
            let _ = result.send(work.await);
        }));
        let received = received.await.ok();
        if received.is_some() {
            task.detach();
        }
        received
    }

    /// Returns whether the calling thread is in the context of this runtime, as in a task of the runtime.
    pub(crate) fn is_current(&self) -> bool {
        Handle::try_current().is_ok_and(|current| current.id() == self.handle.id())
    }
}

impl Spawn for IoRuntime {
    fn spawn(&self, work: BoxFuture<'static, ()>) -> Task {
        let abort = self.handle.spawn(work).abort_handle();
        Task::new(move || abort.abort())
    }
}

impl fmt::Debug for IoRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoRuntime")
            .field("id", &self.handle.id())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn shared_io_runtime_is_started_once_on_its_own_threads() {
        let (first, second) = (
            IoRuntime::shared().expect("starts"),
            IoRuntime::shared().expect("starts"),
        );
        assert_eq!(first.handle.id(), second.handle.id());
        let (tx, rx) = mpsc::channel();
        first
            .spawn(Box::pin(async move {
                let _ = tx.send(std::thread::current().name().map(str::to_owned));
            }))
            .detach();
        assert_eq!(rx.recv().expect("ran").as_deref(), Some("tinkers-io"));
        // Setting the same number again is not an error.
        let threads = shared_runtime::threads();
        IoRuntime::set_shared_threads(threads).expect("no change");
        let more = threads.saturating_add(1);
        let error = IoRuntime::set_shared_threads(more).expect_err("too late");
        assert_eq!(error.field(), Some("io_threads"));
    }

    #[test]
    fn task_is_aborted_when_its_future_is_dropped() {
        struct DropSignal(mpsc::Sender<&'static str>);
        impl Drop for DropSignal {
            fn drop(&mut self) {
                let _ = self.0.send("dropped");
            }
        }
        let (tx, rx) = mpsc::channel();
        let signal = DropSignal(tx.clone());
        let task = IoRuntime::shared()
            .expect("starts")
            .spawn(Box::pin(async move {
                let _ = signal.0.send("started");
                std::future::pending::<()>().await;
                drop(signal);
            }));
        assert_eq!(rx.recv(), Ok("started"));
        drop(task);
        assert_eq!(rx.recv(), Ok("dropped"));
    }
}
