//! The tokio runtime that all clients of the process share.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tinkers_core::{Error, ErrorKind, Sent};
use tokio::runtime::{Builder, Handle, Runtime};

/// The tokio runtime that all clients of the process share by default. It is never shut down, since connections and heartbeats may outlive
/// all clients.
static SHARED: Mutex<Shared> = Mutex::new(Shared {
    threads: NonZeroUsize::MIN,
    runtime: None,
});

struct Shared {
    threads: NonZeroUsize,
    runtime: Option<Runtime>,
}

/// The maximum number of threads of the shared runtime for blocking work. The only blocking work is the resolution of host names, and more
/// threads do not make it faster.
pub(crate) const RESOLVER_THREADS: usize = 8;

/// Returns the handle of the shared runtime. The runtime is started on first use, on threads named `tinkers-io`.
pub(crate) fn handle() -> Result<Handle, Error> {
    let mut shared = lock();
    if let Some(runtime) = &shared.runtime {
        return Ok(runtime.handle().clone());
    }
    let runtime = Builder::new_multi_thread()
        .worker_threads(shared.threads.get())
        .max_blocking_threads(RESOLVER_THREADS)
        .thread_name("tinkers-io")
        .enable_all()
        .build()
        .map_err(|error| cannot_start("the I/O runtime", error))?;
    let handle = runtime.handle().clone();
    shared.runtime = Some(runtime);
    Ok(handle)
}

/// Sets the number of worker threads that the shared runtime starts with. Fails if the runtime already runs with another number of threads.
pub(crate) fn set_threads(threads: NonZeroUsize) -> Result<(), Error> {
    let mut shared = lock();
    if shared.runtime.is_some() && shared.threads != threads {
        let message = format!(
            "the I/O runtime already runs on {} thread(s); set `io_threads` before the first client",
            shared.threads
        );
        let error = Error::new(ErrorKind::Configuration, Sent::NotSent, message);
        return Err(error.with_field("io_threads"));
    }
    shared.threads = threads;
    Ok(())
}

/// Returns the number of worker threads that the shared runtime has or will start with.
#[cfg(test)]
pub(crate) fn threads() -> NonZeroUsize {
    lock().threads
}

fn lock() -> MutexGuard<'static, Shared> {
    SHARED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the error for a thread called `name` that the operating system could not start.
pub(crate) fn cannot_start(name: &str, error: std::io::Error) -> Error {
    let message = format!("cannot start {name}");
    Error::new(ErrorKind::Io, Sent::NotSent, message).with_source(error)
}
