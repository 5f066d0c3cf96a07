//! Where the SDK's work runs: one I/O runtime per process, or one that the caller lends.

use std::fmt;
use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use tinkers_core::{BoxFuture, Clock, Error, ErrorKind, Sent, Spawn, Task};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::time::TokioClock;

/// A handle on the runtime that does the SDK's I/O. Cheap to clone; clones are the same runtime.
///
/// Work on it goes on whatever the caller's own executor does: it may have none, block it, or drop it.
///
/// # `fork`
/// A process that is forked has the thread that called `fork` and no other. So in the child nothing of the SDK goes on: the threads
/// of [`IoRuntime::shared`] and of heartbeats are not there, whatever waits for them waits for ever, and each connection is a copy of
/// the parent's, on which the two would talk across each other. Clients that were made before a fork must not be used in the
/// child, nor a new one made there: `fork` and then `exec`, as [`std::process::Command`] does, or make the first client after the
/// fork. The parent is not affected, as long as the child leaves its connections alone.
#[derive(Clone)]
pub struct IoRuntime {
    handle: Handle,
    time: Arc<TokioClock>,
}

/// The process's own runtime. It is never shut down: connections and heartbeats may outlive every client of the
/// moment, and a static's end is the process's.
static SHARED: Mutex<Shared> = Mutex::new(Shared {
    threads: NonZeroUsize::MIN,
    started: None,
});

struct Shared {
    threads: NonZeroUsize,
    started: Option<(Runtime, IoRuntime)>,
}

/// Name resolution is the one blocking thing here; more threads than this do not make a resolver faster.
const RESOLVER_THREADS: usize = 8;

impl IoRuntime {
    /// The runtime of this process, started on first use on threads named `tinkers-io`.
    ///
    /// Fails with [`ErrorKind::Io`] when the operating system gives no thread.
    pub fn shared() -> Result<Self, Error> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, runtime)) = &shared.started {
            return Ok(runtime.clone());
        }
        let owned = Builder::new_multi_thread()
            .worker_threads(shared.threads.get())
            .max_blocking_threads(RESOLVER_THREADS)
            .thread_name("tinkers-io")
            .enable_all()
            .build()
            .map_err(|error| cannot_start("the I/O runtime", error))?;
        let runtime = Self::from_handle(owned.handle().clone());
        shared.started = Some((owned, runtime.clone()));
        Ok(runtime)
    }

    /// Sets how many worker threads [`IoRuntime::shared`] starts with (one unless set).
    ///
    /// Fails with [`ErrorKind::Configuration`] once it runs with another number.
    pub fn set_shared_threads(threads: NonZeroUsize) -> Result<(), Error> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.started.is_some() && shared.threads != threads {
            let message = format!(
                "the I/O runtime already runs on {} thread(s); set `io_threads` before the first client",
                shared.threads
            );
            return Err(Error::new(ErrorKind::Configuration, Sent::NotSent, message)
                .with_field("io_threads"));
        }
        shared.threads = threads;
        Ok(())
    }

    /// The caller's own runtime, with its I/O and time drivers enabled. How long it lives, and that it is driven, is the
    /// caller's business: requests under way when it ends fail.
    pub fn from_handle(handle: Handle) -> Self {
        let time = Arc::new(TokioClock::new(handle.clone()));
        Self { handle, time }
    }

    /// The clock of this runtime.
    pub fn time(&self) -> Arc<dyn Clock> {
        let time: Arc<dyn Clock> = Arc::<TokioClock>::clone(&self.time);
        time
    }

    /// Runs `work` here and blocks the calling thread for its result, for programs without an executor.
    ///
    /// Must not be called from inside asynchronous code, which it would block; tokio panics when it notices.
    pub fn block_on<F: Future>(&self, work: F) -> F::Output {
        self.handle.block_on(work)
    }

    /// Starts `work`, which nobody can abort. For work that ends by itself: connections and their set-up.
    pub(crate) fn launch(&self, work: impl Future<Output = ()> + Send + 'static) {
        drop(self.handle.spawn(work));
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

pub(crate) fn cannot_start(what: &str, error: std::io::Error) -> Error {
    Error::new(
        ErrorKind::Io,
        Sent::NotSent,
        format!("cannot start {what}: {error}"),
    )
    .with_source(error)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn the_shared_runtime_is_one_and_runs_on_its_own_threads() {
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
        // Once it runs, the same number is fine and another is an error that names the setting.
        let running = SHARED
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .threads;
        IoRuntime::set_shared_threads(running).expect("no change");
        let more = running.saturating_add(1);
        let error = IoRuntime::set_shared_threads(more).expect_err("too late");
        assert_eq!(error.field(), Some("io_threads"));
    }

    #[test]
    fn a_dropped_task_is_aborted() {
        struct Tell(mpsc::Sender<&'static str>);
        impl Drop for Tell {
            fn drop(&mut self) {
                let _ = self.0.send("dropped");
            }
        }
        let (tx, rx) = mpsc::channel();
        let tell = Tell(tx.clone());
        let task = IoRuntime::shared()
            .expect("starts")
            .spawn(Box::pin(async move {
                let _ = tell.0.send("started");
                std::future::pending::<()>().await;
                drop(tell);
            }));
        assert_eq!(rx.recv(), Ok("started"));
        drop(task);
        assert_eq!(rx.recv(), Ok("dropped"));
    }
}
