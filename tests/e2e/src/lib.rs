//! Servers and clients for end-to-end tests: on loopback sockets in real time, and in process in virtual time.

mod log_buffer;
pub mod training;

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tinkers::{Error, FinishReason, ServiceClient, ServiceClientBuilder};
use tinkers_core::{Clock, Spawn, SplitMix, Transport};
use tinkers_local::{
    BlockingServer, EngineError, Faults, InProcess, Journal, LocalConfig, LocalServer, Script,
    ScriptedEngine, TokioSpawn,
};
use tinkers_session::{
    BaseUrl, EndpointKey, Endpoints, HeartbeatParts, Session, SessionOptions, SessionParts,
};
use tinkers_transport::{IoRuntime, TokioClock};
use tokio::runtime::Handle;

pub use log_buffer::LogBuffer;

/// The name of the base model of the scripted engine. This engine runs no real model. It returns
/// predictable results.
pub const SCRIPTED: &str = "tinkers/scripted";

/// The time limit of an operation over loopback sockets in a test. A test that hangs fails after
/// this time.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Starts a server on the runtime of `handle`. Its engine returns predictable results instead of
/// running a model.
fn start_server(
    handle: &Handle,
    engine: Arc<ScriptedEngine>,
    config: LocalConfig,
    faults: Faults,
    journal: Journal,
) -> Result<LocalServer, EngineError> {
    let clock = Arc::new(TokioClock::new(handle.clone()));
    LocalServer::builder(engine, clock, Arc::new(TokioSpawn::new(handle.clone())))
        .config(config)
        .faults(faults)
        .journal(journal)
        .jitter(Arc::new(SplitMix::new(1)))
        .build()
}

/// A server that listens on a loopback port. It runs in real time on its own thread.
#[derive(Debug)]
pub struct SocketServer {
    /// The fault rules of the server. Tests add rules to it to inject faults.
    pub faults: Faults,
    /// The journal of the server: all requests that it has received.
    pub journal: Journal,
    /// The server's engine, which returns predictable results instead of running a model. It counts
    /// the jobs (such as samples and optimizer steps) that it runs.
    pub engine: Arc<ScriptedEngine>,
    /// The base URL of the server.
    pub url: String,
    server: BlockingServer,
}

impl SocketServer {
    /// Starts a server on a free loopback port.
    pub fn start(config: LocalConfig) -> Self {
        let (faults, journal) = (Faults::new(), Journal::new());
        let engine = Arc::new(ScriptedEngine::new(Script::default()));
        let shared = (Arc::clone(&engine), faults.clone(), journal.clone());
        let build = move |handle: &Handle| {
            let (engine, faults, journal) = shared;
            start_server(handle, engine, config, faults, journal)
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server =
            BlockingServer::start(address, NonZeroUsize::MIN, build).expect("a free loopback port");
        Self {
            faults,
            journal,
            engine,
            url: server.url(),
            server,
        }
    }

    /// Connects a client to this server.
    ///
    /// # Errors
    /// When the session cannot be created.
    pub async fn client(&self) -> Result<ServiceClient, Error> {
        self.client_builder().connect().await
    }

    /// Returns a builder for a client of this server. The client ignores environment variables and reports no
    /// telemetry.
    pub fn client_builder(&self) -> ServiceClientBuilder {
        ServiceClient::builder()
            .without_environment()
            .telemetry(false)
            .base_url(&self.url)
    }

    /// Stops the server and waits until it has stopped.
    pub fn stop(self) {
        self.server.shutdown();
    }
}

/// The settings of a [`Harness`], which consists of a server and a client in the same process.
#[derive(Debug, Default)]
pub struct Setup {
    /// The configuration of the server.
    pub config: LocalConfig,
    /// The options of the client.
    pub options: SessionOptions,
    /// The time that the server's engine takes for each job, such as a sample or an optimizer step.
    pub latency: Duration,
    /// The fault rules of the server, for faults that must be injected from the first request on.
    pub faults: Faults,
}

impl From<LocalConfig> for Setup {
    fn from(config: LocalConfig) -> Self {
        Self {
            config,
            ..Self::default()
        }
    }
}

impl From<SessionOptions> for Setup {
    fn from(options: SessionOptions) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }
}

/// A server in this process and a client with an open session. Both use the clock of the current
/// tokio runtime, which a test may pause.
#[derive(Debug)]
pub struct Harness {
    /// The fault rules of the server. Tests add rules to it to inject faults.
    pub faults: Faults,
    /// The journal of the server: all requests that it has received.
    pub journal: Journal,
    /// The server's engine, which returns predictable results instead of running a model. It counts
    /// the jobs (such as samples and optimizer steps) that it runs.
    pub engine: Arc<ScriptedEngine>,
    /// The server in this process.
    pub server: LocalServer,
    /// The client of the server.
    pub service: ServiceClient,
}

impl Harness {
    /// Starts a server and a client with default settings.
    pub async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    /// Starts a server and a client with the given settings.
    pub async fn with(setup: impl Into<Setup>) -> Self {
        Self::through(setup, |direct| direct).await.0
    }

    /// Starts a server and a client. `layer` wraps the client's transport, for example to inject
    /// faults. Returns the server and the client as a harness, together with the transport from
    /// `layer`.
    pub async fn through<T: Transport + 'static>(
        setup: impl Into<Setup>,
        layer: impl FnOnce(InProcess) -> T,
    ) -> (Self, Arc<T>) {
        let setup = setup.into();
        let (faults, journal) = (setup.faults, Journal::new());
        let handle = Handle::current();
        let mut engine = ScriptedEngine::new(Script::default());
        if !setup.latency.is_zero() {
            let clock = Arc::new(TokioClock::new(handle.clone()));
            let spawn = Arc::new(TokioSpawn::new(handle.clone()));
            engine = engine.with_latency(setup.latency, clock, spawn);
        }
        let engine = Arc::new(engine);
        let server = start_server(
            &handle,
            Arc::clone(&engine),
            setup.config,
            faults.clone(),
            journal.clone(),
        )
        .expect("a server without checkpoints starts");
        let transport = Arc::new(layer(InProcess::new(server.clone())));
        let shared: Arc<dyn Transport> = Arc::<T>::clone(&transport);
        let session = open(shared, setup.options)
            .await
            .expect("a session on a new server");
        let harness = Self {
            faults,
            journal,
            engine,
            server,
            service: ServiceClient::from_session(session),
        };
        (harness, transport)
    }

    /// Closes the session of the client.
    ///
    /// # Panics
    /// When the server rejects the request.
    pub async fn close(&self) {
        let closed = self.service.close(FinishReason::Success, None);
        closed.await.expect("the session is closed");
    }
}

/// Opens a session that sends its requests through a transport, on the current runtime. The session
/// has its own rate limiter, which no other session shares.
///
/// # Errors
/// When the server rejects the session.
pub async fn open(
    transport: Arc<dyn Transport>,
    options: SessionOptions,
) -> Result<Arc<Session>, Error> {
    let spawner = Arc::new(IoRuntime::from_handle(Handle::current()));
    open_with_spawner(transport, options, spawner).await
}

/// Opens a session like [`open`], but runs the background tasks of the session on `spawner`. Only
/// the heartbeats stay on the current runtime.
///
/// # Errors
/// When the server rejects the session.
pub async fn open_with_spawner(
    transport: Arc<dyn Transport>,
    options: SessionOptions,
    spawner: Arc<dyn Spawn>,
) -> Result<Arc<Session>, Error> {
    let runtime = IoRuntime::from_handle(Handle::current());
    let time: Arc<dyn Clock> = runtime.clock();
    let key = EndpointKey::new(BaseUrl::parse("http://in-process")?, b"");
    let parts = SessionParts {
        auth: None,
        transport: Arc::clone(&transport),
        time: Arc::clone(&time),
        jitter: Arc::new(SplitMix::new(7)),
        endpoint: Endpoints::new().get_or_create(key),
        heartbeat: HeartbeatParts {
            transport,
            time,
            spawner: Arc::new(runtime),
        },
        spawner,
        recovered_errors: Arc::default(),
    };
    Session::open(parts, options).await
}
