//! The server on a thread and a runtime of its own, for programs without one.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::mpsc;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

use super::{LocalServer, ServeError, serve};
use crate::engine::EngineError;

/// A server on threads of its own. Dropping it shuts it down and waits for that.
pub struct BlockingServer {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl BlockingServer {
    /// Starts a server on `address` with so many worker threads. `build` is called with its runtime, which the server's
    /// clock and tasks belong to. Blocks until the server listens, from inside asynchronous code too.
    ///
    /// # Errors
    /// When there is no thread, `build` fails, or the address cannot be served (see [`serve`]).
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
                    // Either the word to stop or the end of whoever could give it.
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

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops it as [`Serving::shutdown`](crate::Serving::shutdown) does and waits for the end.
    pub fn shutdown(mut self) {
        self.end();
    }

    /// Blocks until the server ends by itself, which it does not unless its thread fails.
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
