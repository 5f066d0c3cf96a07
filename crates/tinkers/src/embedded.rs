//! The embedded server, in this process and without sockets.

use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;
use tinkers_core::{
    BoxFuture, Clock, Error, ErrorKind, HttpRequest, HttpResponse, Jitter, Result, Sent, Spawn,
    SplitMix, Transport, TransportError,
};
use tinkers_engine::ModelEngine;
use tinkers_local::{InProcess, LocalServer};
use tinkers_session::{
    BaseUrl, EndpointKey, Endpoints, HeartbeatParts, Session, SessionOptions, SessionParts,
};
use tinkers_transport::{DedicatedThread, IoRuntime};

use crate::{ServiceClient, builder};

impl ServiceClient {
    /// A session on a server inside this process, with the built-in base model `tinkers/tiny`: no key, no network, no set-up.
    /// What goes through it is what would go over a socket.
    ///
    /// What has no seed of its own differs from client to client: give samples and adapters seeds to repeat a run, or use
    /// [`ServiceClient::over_local`] with an engine of a given seed.
    ///
    /// Checkpoints are kept in a temporary directory that goes with the last handle of this client; use
    /// [`ServiceClient::local_in`] to keep them.
    ///
    /// ```no_run
    /// # async fn run() -> tinkers::Result<()> {
    /// let service = tinkers::ServiceClient::local().await?;
    /// let sampler = service.sampling("tinkers/tiny").create().await?;
    /// let reply = sampler.sample(vec![65, 110, 100, 32]).max_tokens(20).await?;
    /// # drop(reply); Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When there is no room for a temporary directory or for threads.
    pub async fn local() -> Result<Self> {
        let directory = TempDir::with_prefix("tinkers-")
            .map_err(|error| failed("a temporary directory cannot be made", error))?;
        let path = directory.path().to_owned();
        open(&path, Some(directory)).await
    }

    /// The same with checkpoints kept below `data_dir`, to be found there by the next one.
    ///
    /// # Errors
    /// When the directory cannot be used, or there is no room for threads.
    pub async fn local_in(data_dir: impl AsRef<Path>) -> Result<Self> {
        open(data_dir.as_ref(), None).await
    }

    /// A session on a server of one's own in this process: over any engine, under faults, with a journal. What goes through it is
    /// what would go over a socket.
    ///
    /// The client lives on the server's clock and spawner, heartbeats included, and its limits are its own. So on a runtime whose
    /// clock is paused (`tokio::time::pause`) a day passes at once; and since its jitter has a fixed seed, the same program then
    /// makes the same requests, run after run. The server must ask for no key.
    ///
    /// The example `bad_day` tests a training loop with it.
    ///
    /// # Errors
    /// When the session cannot be opened, such as under faults that strike its first requests.
    pub async fn over_local(server: LocalServer) -> Result<Self> {
        let (time, spawner) = (Arc::clone(server.time()), Arc::clone(server.spawner()));
        let heart = (Arc::clone(&time), Arc::clone(&spawner));
        let transport = Arc::new(InProcess::new(server));
        session(
            transport,
            (time, spawner),
            heart,
            Arc::new(SplitMix::new(1)),
        )
        .await
    }
}

/// A clock and what runs on it.
type Runtime = (Arc<dyn Clock>, Arc<dyn Spawn>);

async fn session(
    transport: Arc<dyn Transport>,
    (time, spawner): Runtime,
    heart: Runtime,
    jitter: Arc<dyn Jitter>,
) -> Result<ServiceClient> {
    // Limits of its own: two embedded servers have nothing in common.
    let key = EndpointKey::new(BaseUrl::parse("http://embedded")?, b"");
    let parts = SessionParts {
        transport: Arc::clone(&transport),
        time,
        jitter,
        endpoint: Endpoints::new().get_or_create(key),
        heartbeat: HeartbeatParts {
            transport,
            time: heart.0,
            spawner: heart.1,
        },
        spawner,
        recovered_errors: Arc::default(),
    };
    let session = Session::open(parts, SessionOptions::default()).await?;
    Ok(ServiceClient::over(session))
}

async fn open(data_dir: &Path, directory: Option<TempDir>) -> Result<ServiceClient> {
    let runtime = IoRuntime::shared()?;
    let engine = ModelEngine::builtin(data_dir)
        .map_err(|error| failed("the embedded model cannot be started", error))?
        .with_seed(builder::jitter().bits());
    let server = LocalServer::builder(Arc::new(engine), runtime.time(), Arc::new(runtime.clone()))
        .build()
        .map_err(|error| failed("the embedded server cannot be started", error))?;
    let transport: Arc<dyn Transport> = Arc::new(Embedded {
        inner: InProcess::new(server),
        _directory: directory,
    });
    let heart = DedicatedThread::start("tinkers-heartbeat")?;
    let heart: Runtime = (heart.runtime().time(), Arc::new(heart));
    let runtime: Runtime = (runtime.time(), Arc::new(runtime));
    session(transport, runtime, heart, builder::jitter()).await
}

fn failed(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Io, Sent::NotSent, format!("{what}: {error}")).with_source(error)
}

/// The way to the server, which lives as long as somebody has it, and so does its directory.
#[derive(Debug)]
struct Embedded {
    inner: InProcess,
    _directory: Option<TempDir>,
}

impl Transport for Embedded {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        self.inner.send(request)
    }
}
