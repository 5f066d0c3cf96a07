//! The server on sockets.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

use super::LocalServer;
use super::connection::connection;

/// How long a graceful shutdown waits for open connections to end before it closes them.
const GRACE: Duration = Duration::from_secs(5);
/// How long the server waits after it failed to accept a connection, before it tries again. The failure can mean that no file
/// descriptors are left.
const PAUSE: Duration = Duration::from_millis(50);

/// The reason why a server could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address is not a loopback address, and the server has no API key.
    #[error(
        "{0} is reachable from other machines; set an API key, or bind a loopback address such as 127.0.0.1"
    )]
    Exposed(SocketAddr),
    /// The address cannot be bound.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address that cannot be bound.
        address: SocketAddr,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The thread or the tokio runtime of the server cannot be started.
    #[error("cannot start the server's thread")]
    Runtime(#[source] std::io::Error),
    /// The engine could not start.
    #[error("cannot start the engine")]
    Engine(#[from] crate::EngineError),
    /// The thread of the server ended before it listened on the address.
    #[error("the server's thread ended before it listened")]
    Lost,
}

/// Listens on `address` and serves `server` there, in tasks on the current tokio runtime. If the port is 0, the operating system
/// selects a free port.
///
/// # Errors
/// If the address cannot be bound, or if it is not a loopback address and the server has no API key.
pub async fn serve(server: LocalServer, address: SocketAddr) -> Result<Serving, ServeError> {
    if !address.ip().is_loopback() && !server.config().access.has_keys() {
        return Err(ServeError::Exposed(address));
    }
    let bind = |source| ServeError::Bind { address, source };
    let listener = TcpListener::bind(address).await.map_err(bind)?;
    let local = listener.local_addr().map_err(bind)?;
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(accept(server, listener, stopped));
    Ok(Serving {
        address: local,
        stop: Some(stop),
        task,
    })
}

async fn accept(server: LocalServer, listener: TcpListener, mut stopped: oneshot::Receiver<()>) {
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = &mut stopped => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                // With `TCP_NODELAY`: responses are written at once, so the kernel need not wait for more data.
                let _ = stream.set_nodelay(true);
                connections.spawn(connection(server.clone(), stream, graceful.watcher()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                server.time().sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    server.drain();
    let time = server.time();
    if time
        .deadline(time.now().after(GRACE), graceful.shutdown())
        .await
        .is_none()
    {
        tracing::info!("connections were still open at the end of the shutdown");
    }
    connections.shutdown().await;
}

/// A server that listens on a port. Dropping it stops the server at once, without a graceful shutdown.
pub struct Serving {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Serving {
    /// Returns the address on which the server listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Returns the base URL of the server.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Shuts down gracefully: stops accepting connections, responds with "try again" to all polls that are held open, and waits up
    /// to five seconds for the responses to other running requests.
    pub async fn shutdown(mut self) {
        drop(self.stop.take());
        let _ = (&mut self.task).await;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
