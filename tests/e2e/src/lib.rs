//! Servers and clients for the end-to-end tests: over sockets in real time, and in process in virtual time.

pub mod training;

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tinkers::{Error, ServiceClient, ServiceClientBuilder};
use tinkers_core::{Clock, SplitMix, Transport};
use tinkers_local::{
    BlockingServer, Faults, InProcess, Journal, LocalConfig, LocalServer, Script, ScriptedEngine,
    TokioSpawn,
};
use tinkers_session::{
    BaseUrl, EndpointKey, Endpoints, HeartbeatParts, Session, SessionOptions, SessionParts,
};
use tinkers_transport::{IoRuntime, TokioClock};
use tokio::runtime::Handle;

/// The base model of the scripted engine.
pub const SCRIPTED: &str = "tinkers/scripted";

/// A server with canned results, what goes wrong with it, and what it was asked.
#[derive(Debug)]
pub struct Parts {
    /// What goes wrong on the way.
    pub faults: Faults,
    /// What was asked.
    pub journal: Journal,
    /// What was done.
    pub engine: Arc<ScriptedEngine>,
}

impl Parts {
    fn new(script: Script) -> Self {
        Self::over(ScriptedEngine::new(script))
    }

    fn over(engine: ScriptedEngine) -> Self {
        Self {
            faults: Faults::new(),
            journal: Journal::new(),
            engine: Arc::new(engine),
        }
    }

    fn server(
        &self,
        handle: &Handle,
        config: LocalConfig,
    ) -> Result<LocalServer, tinkers_local::EngineError> {
        let time = Arc::new(TokioClock::new(handle.clone()));
        let engine = Arc::<ScriptedEngine>::clone(&self.engine);
        LocalServer::builder(engine, time, Arc::new(TokioSpawn::new(handle.clone())))
            .config(config)
            .faults(self.faults.clone())
            .journal(self.journal.clone())
            .jitter(Arc::new(SplitMix::new(1)))
            .build()
    }
}

/// A server on a loopback port, in real time, on a thread of its own.
#[derive(Debug)]
pub struct Served {
    /// Script, journal and engine.
    pub parts: Parts,
    /// Where it listens.
    pub url: String,
    server: BlockingServer,
}

impl Served {
    /// Starts it.
    pub fn start(config: LocalConfig) -> Self {
        let parts = Parts::new(Script::default());
        let shared = Parts {
            faults: parts.faults.clone(),
            journal: parts.journal.clone(),
            engine: Arc::clone(&parts.engine),
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let build = move |handle: &Handle| shared.server(handle, config);
        let server =
            BlockingServer::start(address, NonZeroUsize::MIN, build).expect("a free loopback port");
        Self {
            parts,
            url: server.url(),
            server,
        }
    }

    /// A client of it.
    ///
    /// # Errors
    /// When it cannot connect.
    pub async fn client(&self) -> Result<ServiceClient, Error> {
        self.connecting().connect().await
    }

    /// The settings of a client of it, which the environment has no say in.
    pub fn connecting(&self) -> ServiceClientBuilder {
        ServiceClient::builder()
            .without_environment()
            .base_url(&self.url)
    }

    /// Stops it.
    pub fn stop(self) {
        self.server.shutdown();
    }
}

/// A server in this process and in this runtime's time, and a session on it.
#[derive(Debug)]
pub struct InMemory {
    /// Script, journal and engine.
    pub parts: Parts,
    /// The server.
    pub server: LocalServer,
    /// A client.
    pub service: ServiceClient,
}

impl InMemory {
    /// Starts both on the current runtime, which may stand still.
    pub async fn start() -> Self {
        Self::with(
            Script::default(),
            LocalConfig::default(),
            SessionOptions::default(),
        )
        .await
    }

    /// The same with settings.
    pub async fn with(script: Script, config: LocalConfig, options: SessionOptions) -> Self {
        Self::faulty(script, config, options, |_| ()).await
    }

    /// The same where things go wrong from the first contact on.
    pub async fn faulty(
        script: Script,
        config: LocalConfig,
        options: SessionOptions,
        add: impl FnOnce(&Faults),
    ) -> Self {
        Self::over(Parts::new(script), config, options, add, |direct| {
            Arc::new(direct)
        })
        .await
    }

    /// The same where each job takes `latency`, and with what `between` puts between client and server.
    pub async fn slow(
        latency: Duration,
        config: LocalConfig,
        options: SessionOptions,
        between: impl FnOnce(InProcess) -> Arc<dyn Transport>,
    ) -> Self {
        let handle = Handle::current();
        let time = Arc::new(TokioClock::new(handle.clone()));
        let engine = ScriptedEngine::new(Script::default());
        let engine = engine.with_latency(latency, time, Arc::new(TokioSpawn::new(handle)));
        Self::over(Parts::over(engine), config, options, |_| (), between).await
    }

    /// The same with what `between` puts between client and server.
    pub async fn through(
        config: LocalConfig,
        between: impl FnOnce(InProcess) -> Arc<dyn Transport>,
    ) -> Self {
        let parts = Parts::new(Script::default());
        Self::over(parts, config, SessionOptions::default(), |_| (), between).await
    }

    async fn over(
        parts: Parts,
        config: LocalConfig,
        options: SessionOptions,
        add: impl FnOnce(&Faults),
        between: impl FnOnce(InProcess) -> Arc<dyn Transport>,
    ) -> Self {
        add(&parts.faults);
        let server = parts
            .server(&Handle::current(), config)
            .expect("a server without checkpoints starts");
        let transport = between(InProcess::new(server.clone()));
        let session = open(transport, options)
            .await
            .expect("a session on a fresh server");
        Self {
            parts,
            server,
            service: ServiceClient::over(session),
        }
    }
}

/// A session over any transport, on the current runtime, sharing its limits with nobody.
///
/// # Errors
/// When the server refuses it.
pub async fn open(
    transport: Arc<dyn Transport>,
    options: SessionOptions,
) -> Result<Arc<Session>, Error> {
    let runtime = IoRuntime::from_handle(Handle::current());
    let key = EndpointKey::new(BaseUrl::parse("http://in-process")?, b"");
    let time: Arc<dyn Clock> = runtime.time();
    let parts = SessionParts {
        transport: Arc::clone(&transport),
        time: Arc::clone(&time),
        jitter: Arc::new(SplitMix::new(7)),
        endpoint: Endpoints::new().get_or_create(key),
        heartbeat: HeartbeatParts {
            transport,
            time,
            spawner: Arc::new(runtime.clone()),
        },
        spawner: Arc::new(runtime),
        recovered_errors: Arc::default(),
    };
    Session::open(parts, options).await
}

/// Long enough for anything on loopback; a wait that ends by itself when something hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);
