//! A server with its own thread and runtime, for programs without a runtime.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::mpsc;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

use super::{LocalServer, ServeError, serve};
use crate::engine::EngineError;

/// A server with its own threads and its own tokio runtime. Dropping it shuts the server down and blocks until the shutdown is
/// complete.
pub struct BlockingServer {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl BlockingServer {
    /// Starts a server on `address` with `threads` worker threads, and blocks until the server listens. `build` creates the server.
    /// It gets the handle of the new runtime, which the clock and the tasks of the server must use. May be called from asynchronous
    /// code.
    ///
    /// # Errors
    ///
    /// If no thread can be started, `build` fails, or the address cannot be served (see [`serve`]).
    pub fn start(
        address: SocketAddr,
        threads: NonZeroUsize,
        build: impl FnOnce(&Handle) -> Result<LocalServer, EngineError> + Send + 'static,
    ) -> Result<Self, ServeError> {
        let (stop, stopped) = oneshot::channel();
        let (ready, started) = mpsc::sync_channel(1);
        let run = move || match listen(address, threads, build) {
            Err(error) => drop(ready.send(Err(error))),
            Ok((runtime, serving)) => {
                let _ = ready.send(Ok(serving.local_addr()));
                runtime.block_on(async {
                    // This completes on a shutdown, and when the `BlockingServer` is dropped.
                    let _ = stopped.await;
                    serving.shutdown().await;
                });
                runtime.shutdown_background();
            }
        };
        let thread = std::thread::Builder::new()
            .name("tinkers-local".to_owned())
            .spawn(run)
            .map_err(ServeError::Runtime)?;
        let address = started.recv().map_err(|_| ServeError::Lost)??;
        Ok(Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Returns the address on which the server listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Returns the base URL of the server.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Shuts the server down as [`Serving::shutdown`](crate::Serving::shutdown) does, and blocks until the shutdown is complete.
    pub fn shutdown(mut self) {
        self.end();
    }

    /// Blocks until the thread of the server ends. The thread ends only if the server fails.
    pub fn wait(mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(
    address: SocketAddr,
    threads: NonZeroUsize,
    build: impl FnOnce(&Handle) -> Result<LocalServer, EngineError>,
) -> Result<(Runtime, super::Serving), ServeError> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(threads.get())
        .thread_name("tinkers-local-io")
        .enable_all()
        .build()
        .map_err(ServeError::Runtime)?;
    let server = {
        let _inside = runtime.enter();
        build(runtime.handle())?
    };
    let serving = runtime.block_on(serve(server, address))?;
    Ok((runtime, serving))
}

impl Drop for BlockingServer {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for BlockingServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockingServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
