//! Constructors of service clients that use an embedded server in the same process, without sockets.

use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;
use tinkers_core::{
    BoxFuture, Clock, Error, ErrorKind, HttpRequest, HttpResponse, Jitter, Result, Sent, Spawn,
    SplitMix, Transport, TransportError,
};
use tinkers_engine::ModelEngine;
use tinkers_local::{Database, InProcess, LocalServer};
use tinkers_session::{
    BaseUrl, EndpointKey, Endpoints, HeartbeatParts, Session, SessionOptions, SessionParts,
};
use tinkers_transport::{DedicatedThread, IoRuntime};

use crate::{ServiceClient, builder};

impl ServiceClient {
    /// Starts an embedded server with the base model `tinkers/tiny`, and opens a session on it. Neither an API key nor a network is needed.
    /// Requests and responses are the same as with a server over a socket. The tokens of the model are bytes (0 to 255), and 256 ends a text.
    ///
    /// Samples and adapters without a seed differ from run to run. Set their seeds to reproduce a run, or use
    /// [`ServiceClient::over_local`] with [`ModelEngine::with_seed`], which is also the way to inject faults into a server with this model.
    ///
    /// Checkpoints are stored in a temporary directory. The directory is removed when the last handle of this client is dropped. To keep
    /// checkpoints on disk, use [`ServiceClient::local_in`].
    ///
    /// The model runs on the CPU, and is about 40 times slower in a build without optimization. To optimize dependencies in debug builds, set
    /// `opt-level = 3` under `[profile.dev.package."*"]` in the `Cargo.toml` of your workspace.
    ///
    /// ```no_run
    /// # async fn run() -> tinkers::Result<()> {
    /// let service = tinkers::ServiceClient::local().await?;
    /// let sampler = service.create_sampling_client("tinkers/tiny").await?;
    /// let reply = sampler.sample(vec![65, 110, 100, 32]).max_tokens(20).await?;
    /// # drop(reply); Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `Io` if a temporary directory or a thread cannot be created.
    pub async fn local() -> Result<Self> {
        let directory = TempDir::with_prefix("tinkers-")
            .map_err(|error| failed("cannot create a temporary directory", error))?;
        let path = directory.path().to_owned();
        open(&path, Some(directory)).await
    }

    /// Starts an embedded server as [`ServiceClient::local`] does, but stores checkpoints in `data_dir`. The directory and its parents are
    /// created if they do not exist.
    ///
    /// Checkpoints outlive the client: a later client of the same directory, also in another process, can load them by the paths that the
    /// saves returned. Sessions, models and samplers end with the client, but are still listed, as are their usage and the audit log. One server at a time can use the
    /// directory: it is free again when this client and all of its training and sampling clients are dropped.
    ///
    /// ```no_run
    /// # async fn run() -> tinkers::Result<()> {
    /// let service = tinkers::ServiceClient::local_in("checkpoints").await?;
    /// let training = service.create_lora_training_client("tinkers/tiny").rank(8).await?;
    /// training.save_state("start").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Io` if the directory cannot be used or another process uses it, or if a thread cannot be created.
    pub async fn local_in(data_dir: impl AsRef<Path>) -> Result<Self> {
        open(data_dir.as_ref(), None).await
    }

    /// Opens a session on an embedded server that the program has built, for example with injected faults and a request journal. Requests
    /// and responses are the same as with a server over a socket. The server must not require an API key.
    ///
    /// The client and its heartbeats use the clock and the spawner of the server, and do not share rate limits with other clients. On a
    /// runtime with paused time (`tokio::time::pause`), waits take no real time. The jitter has a fixed seed, so each run of a program
    /// makes the same requests.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::sync::Arc;
    /// use tinkers::TokioClock;
    /// use tinkers::local::{Faults, LocalServer, ScriptedEngine, TokioSpawn};
    /// use tinkers::prelude::*;
    /// use tokio::runtime::{Builder, Handle};
    ///
    /// let runtime = Builder::new_current_thread().enable_all().start_paused(true).build()?;
    /// runtime.block_on(async {
    ///     let faults = Faults::from_script("[[rule]]\non = \"sample\"\nfault = \"cut_after\"")?;
    ///     let time = Arc::new(TokioClock::new(Handle::current()));
    ///     let spawner = Arc::new(TokioSpawn::new(Handle::current()));
    ///     let server = LocalServer::builder(Arc::new(ScriptedEngine::default()), time, spawner).faults(faults.clone()).build()?;
    ///     let service = ServiceClient::over_local(server).await?;
    ///     let sampler = service.create_sampling_client("tinkers/scripted").await?;
    ///     sampler.sample(vec![1, 2, 3]).max_tokens(4).await?;
    ///     assert_eq!(faults.counts()[0].struck, 1);
    ///     Ok(())
    /// })
    /// # }
    /// ```
    ///
    /// The example `faults` tests a whole training loop in this way. To test options of the [builder](ServiceClient::builder), such as a
    /// retry policy, start the server on a loopback socket with `local::BlockingServer`, and connect to its `url()`.
    ///
    /// # Errors
    /// The errors of [`ServiceClientBuilder::connect`](crate::ServiceClientBuilder::connect), for example because of injected faults in the
    /// first requests.
    pub async fn over_local(server: LocalServer) -> Result<Self> {
        let runtime: Runtime = (Arc::clone(server.time()), Arc::clone(server.spawner()));
        let transport = Arc::new(InProcess::new(server));
        let jitter = Arc::new(SplitMix::new(1));
        open_session(transport, runtime.clone(), runtime, jitter).await
    }
}

/// A clock and a spawner of background tasks that belong to the same runtime.
type Runtime = (Arc<dyn Clock>, Arc<dyn Spawn>);

async fn open_session(
    transport: Arc<dyn Transport>,
    (time, spawner): Runtime,
    (heartbeat_time, heartbeat_spawner): Runtime,
    jitter: Arc<dyn Jitter>,
) -> Result<ServiceClient> {
    // A separate registry, since two embedded servers must not share limits.
    let key = EndpointKey::new(BaseUrl::parse("http://embedded")?, b"");
    let parts = SessionParts {
        auth: None,
        transport: Arc::clone(&transport),
        time,
        jitter,
        endpoint: Endpoints::new().get_or_create(key),
        heartbeat: HeartbeatParts {
            transport,
            time: heartbeat_time,
            spawner: heartbeat_spawner,
        },
        spawner,
        recovered_errors: Arc::default(),
    };
    let session = Session::open(parts, SessionOptions::default()).await?;
    Ok(ServiceClient::from_session(session))
}

/// Starts an embedded server with the built-in model and opens a session on it. `directory` is the temporary directory to remove with the
/// client, if there is one.
async fn open(data_dir: &Path, directory: Option<TempDir>) -> Result<ServiceClient> {
    let runtime = IoRuntime::shared()?;
    let engine = ModelEngine::builtin(data_dir)
        .map_err(|error| failed("cannot start the embedded engine", error))?
        .with_seed(builder::jitter().bits());
    let server = LocalServer::builder(Arc::new(engine), runtime.clock(), Arc::new(runtime.clone()));
    let server =
        match directory {
            // Nothing survives a temporary directory.
            Some(_) => server,
            None => server.store(Database::open(data_dir).map_err(|error| {
                failed("cannot open the database of the embedded server", error)
            })?),
        };
    let server = server
        .build()
        .map_err(|error| failed("cannot start the embedded server", error))?;
    let transport: Arc<dyn Transport> = Arc::new(Embedded {
        inner: InProcess::new(server),
        _directory: directory,
    });
    // A separate thread, which ends with the session: the task that drops the engine last waits for saves in progress, and must not
    // delay the heartbeats of other sessions.
    let heartbeat_thread = DedicatedThread::start("tinkers-heartbeat")?;
    let heartbeat: Runtime = (
        heartbeat_thread.runtime().clock(),
        Arc::new(heartbeat_thread),
    );
    let runtime: Runtime = (runtime.clock(), Arc::new(runtime));
    open_session(transport, runtime, heartbeat, builder::jitter()).await
}

fn failed(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Io, Sent::NotSent, what).with_source(error)
}

/// A transport to an embedded server. It owns the temporary directory of the server, so that the directory is removed with the transport.
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
