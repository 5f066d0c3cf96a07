//! Threads with runtimes of their own, for tasks that must run on time while the shared runtime is busy: heartbeats.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

use tinkers_core::{BoxFuture, Error, Spawn, Task};
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use crate::io_runtime::IoRuntime;
use crate::shared_runtime::{RESOLVER_THREADS, cannot_start};

/// A thread with its own single-threaded tokio runtime. Dropping this value stops the thread and drops its tasks.
///
/// If a transport is built with [`DedicatedThread::runtime`], this thread does the I/O of its connections, too.
pub struct DedicatedThread {
    runtime: IoRuntime,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The threads that [`DedicatedThread::shared`] has started and that still run, by name.
static SHARED: Mutex<BTreeMap<String, Weak<DedicatedThread>>> = Mutex::new(BTreeMap::new());

impl DedicatedThread {
    /// Returns the thread called `name` that the process shares, and starts the thread if it does not run. The thread stops when its last
    /// handle is dropped.
    ///
    /// # Errors
    /// `Io` if the operating system provides no thread.
    pub fn shared(name: &str) -> Result<Arc<Self>, Error> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = shared.get(name).and_then(Weak::upgrade) {
            return Ok(thread);
        }
        let thread = Arc::new(Self::start(name)?);
        shared.insert(name.to_owned(), Arc::downgrade(&thread));
        Ok(thread)
    }

    /// Starts a new thread called `name` with its own tokio runtime.
    ///
    /// # Errors
    /// `Io` if the operating system provides no thread.
    pub fn start(name: &str) -> Result<Self, Error> {
        let owned = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(RESOLVER_THREADS)
            .thread_keep_alive(std::time::Duration::from_secs(1))
            .build()
            .map_err(|error| cannot_start(name, error))?;
        let runtime = IoRuntime::from_handle(owned.handle().clone());
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // The drop of the sender stops the thread.
                let _ = owned.block_on(stopped);
                // The drop of the handle must not wait for a resolver that is stuck in a system call.
                owned.shutdown_background();
            })
            .map_err(|error| cannot_start(name, error))?;
        Ok(Self {
            runtime,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Returns the runtime of this thread. Tasks that are spawned after the end of the thread do not run.
    pub fn runtime(&self) -> IoRuntime {
        self.runtime.clone()
    }
}

impl Spawn for DedicatedThread {
    fn spawn(&self, work: BoxFuture<'static, ()>) -> Task {
        self.runtime.spawn(work)
    }
}

impl Drop for DedicatedThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        let Some(thread) = self.thread.take() else {
            return;
        };
        // A thread that is dropped by one of its own tasks cannot wait for itself. It ends right after the task.
        if thread.thread().id() != std::thread::current().id() {
            // The panic hook has reported a panic of the thread.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for DedicatedThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self
            .thread
            .as_ref()
            .and_then(|thread| thread.thread().name());
        f.debug_struct("DedicatedThread")
            .field("name", &name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    struct DropSignal(mpsc::Sender<String>);
    impl Drop for DropSignal {
        fn drop(&mut self) {
            let _ = self.0.send("dropped".to_owned());
        }
    }

    #[test]
    fn tasks_run_on_the_dedicated_thread_until_its_handle_is_dropped() {
        let (tx, rx) = mpsc::channel();
        let signal = DropSignal(tx);
        let thread = DedicatedThread::start("tinkers-heart").expect("starts");
        let work = Box::pin(async move {
            let name = std::thread::current().name().unwrap_or_default().to_owned();
            let _ = signal.0.send(name);
            std::future::pending::<()>().await;
            drop(signal);
        });
        thread.spawn(work).detach();
        assert_eq!(rx.recv().as_deref(), Ok("tinkers-heart"));
        drop(thread);
        assert_eq!(rx.recv().as_deref(), Ok("dropped"));
        assert!(rx.recv().is_err(), "the future is gone with its thread");
    }

    #[test]
    fn shared_dedicated_thread_runs_until_its_last_handle_is_dropped() {
        let shared = || DedicatedThread::shared("tinkers-shared").expect("starts");
        let (first, second) = (shared(), shared());
        assert!(Arc::ptr_eq(&first, &second));
        drop(first);
        let (tx, rx) = mpsc::channel();
        let signal = DropSignal(tx);
        let work = Box::pin(async move {
            std::future::pending::<()>().await;
            drop(signal);
        });
        second.spawn(work).detach();
        drop(second);
        assert_eq!(rx.recv().as_deref(), Ok("dropped"));
        // The next one is started anew.
        assert!(
            shared()
                .thread
                .as_ref()
                .is_some_and(|thread| !thread.is_finished())
        );
    }

    #[test]
    fn handle_of_a_dedicated_thread_can_be_dropped_by_its_own_task() {
        let (tx, rx) = mpsc::channel();
        let thread = DedicatedThread::start("tinkers-self").expect("starts");
        let runtime = thread.runtime();
        runtime
            .spawn(Box::pin(async move {
                drop(thread);
                let _ = tx.send(());
            }))
            .detach();
        assert_eq!(rx.recv(), Ok(()));
    }
}
