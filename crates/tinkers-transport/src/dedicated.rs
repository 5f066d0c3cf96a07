//! A thread with a runtime of its own, for what must go on when the shared one is busy: heartbeats.

use std::fmt;
use std::thread::JoinHandle;

use tinkers_core::{BoxFuture, Error, Spawn, Task};
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use crate::runtime::{IoRuntime, cannot_start};

/// A thread that drives a single-threaded runtime. It stops, and what runs on it is dropped, when this handle is.
///
/// Give [`DedicatedThread::runtime`] to a transport of its own and the connection lives on this thread as well.
pub struct DedicatedThread {
    runtime: IoRuntime,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl DedicatedThread {
    /// Starts a thread called `name`. Fails with `Io` when the operating system gives none.
    pub fn start(name: &str) -> Result<Self, Error> {
        let owned = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .thread_keep_alive(std::time::Duration::from_secs(1))
            .build()
            .map_err(|error| cannot_start(name, error))?;
        let runtime = IoRuntime::from_handle(owned.handle().clone());
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // Either way of ending, a message or the sender's drop, means the same.
                let _ = owned.block_on(stopped);
                // A resolver stuck in a system call must not hold up whoever drops the handle.
                owned.shutdown_background();
            })
            .map_err(|error| cannot_start(name, error))?;
        Ok(Self {
            runtime,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// The runtime of this thread. Work given to it after the thread ended does not run.
    pub fn runtime(&self) -> IoRuntime {
        self.runtime.clone()
    }
}

/// Runs `work` on a thread of its own called `name`, until it is done or the handle is dropped.
pub fn spawn_on_own_thread(
    name: &str,
    work: BoxFuture<'static, ()>,
) -> Result<DedicatedThread, Error> {
    let thread = DedicatedThread::start(name)?;
    thread.runtime.spawn(work).detach();
    Ok(thread)
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
        // Dropped from its own thread, by the work itself: it cannot wait for itself and ends right after.
        if thread.thread().id() != std::thread::current().id() {
            // A panic there was reported when it happened.
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

    struct Tell(mpsc::Sender<String>);
    impl Drop for Tell {
        fn drop(&mut self) {
            let _ = self.0.send("dropped".to_owned());
        }
    }

    #[test]
    fn work_runs_on_a_thread_of_that_name_and_stops_with_the_handle() {
        let (tx, rx) = mpsc::channel();
        let tell = Tell(tx);
        let work = Box::pin(async move {
            let name = std::thread::current().name().unwrap_or_default().to_owned();
            let _ = tell.0.send(name);
            std::future::pending::<()>().await;
            drop(tell);
        });
        let handle = spawn_on_own_thread("tinkers-heart", work).expect("starts");
        assert_eq!(rx.recv().as_deref(), Ok("tinkers-heart"));
        drop(handle);
        assert_eq!(rx.recv().as_deref(), Ok("dropped"));
        assert!(rx.recv().is_err(), "the future is gone with its thread");
    }

    #[test]
    fn a_handle_dropped_by_its_own_work_does_not_hang() {
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
