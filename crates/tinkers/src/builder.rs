//! Setting a service client up.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tinkers_core::{BodyFormat, Error, Jitter, RecoveredErrors, Result, SplitMix, Transport};
use tinkers_dispatch::LimiterSettings;
use tinkers_session::{
    BaseUrl, EndpointKey, Endpoints, HeartbeatParts, Session, SessionOptions, SessionParts,
};
use tinkers_transport::{Credential, DedicatedThread, HttpTransport, IoRuntime, Protocol};

use crate::env::{self, Environment};
use crate::{ServiceClient, key};

/// The hosted service.
const HOSTED: &str = "https://tinker.thinkingmachines.dev/services/tinker-prod";

/// The settings of a [`ServiceClient`]. What is not set comes from the [`Environment`], unless it is told
/// [otherwise](ServiceClientBuilder::without_environment).
#[must_use = "nothing happens before connect() is awaited"]
pub struct ServiceClientBuilder {
    base_url: Option<String>,
    api_key: Option<String>,
    session: SessionOptions,
    tags: Option<Vec<String>>,
    io_threads: Option<NonZeroUsize>,
    runtime: Option<tokio::runtime::Handle>,
    protocol: Protocol,
    root_certificates: Vec<Vec<u8>>,
    layer: Option<Layer>,
    environment: fn() -> Environment,
}

type Layer = Box<dyn FnOnce(Arc<dyn Transport>) -> Arc<dyn Transport> + Send + Sync>;

impl ServiceClientBuilder {
    pub(crate) fn new() -> Self {
        Self {
            base_url: None,
            api_key: None,
            session: SessionOptions::default(),
            tags: None,
            io_threads: None,
            runtime: None,
            protocol: Protocol::default(),
            root_certificates: Vec::new(),
            layer: None,
            environment: Environment::read,
        }
    }

    /// Takes nothing from the environment: no variable of `TINKER_*`, no proxy, no certificates. Then a program does the same
    /// wherever it runs, with the certificates that the system trusts.
    pub fn without_environment(mut self) -> Self {
        self.environment = Environment::default;
        self
    }

    /// The server, such as `http://127.0.0.1:8000`; a path in front of the API's own is kept.
    pub fn base_url(mut self, base_url: impl Into<String>) -> Self {
        self.base_url = Some(base_url.into());
        self
    }

    /// The API key; white space around it is removed. It goes to the server's own origin alone, and into no log, error or span.
    pub fn api_key(mut self, api_key: impl Into<String>) -> Self {
        self.api_key = Some(api_key.into());
        self
    }

    /// The project that the session belongs to.
    pub fn project_id(mut self, project_id: impl Into<String>) -> Self {
        self.session.project_id = Some(project_id.into());
        self
    }

    /// A name to find the session by; need not be unique.
    pub fn display_name(mut self, name: impl Into<String>) -> Self {
        self.session.display_name = Some(name.into());
        self
    }

    /// Labels of the session.
    pub fn tags(mut self, tags: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.tags = Some(tags.into_iter().map(Into::into).collect());
        self
    }

    /// Notes on the session.
    pub fn user_metadata(mut self, metadata: BTreeMap<String, String>) -> Self {
        self.session.user_metadata = metadata;
        self
    }

    /// How long an operation may go without news of any kind before it fails with `Stalled`; two hours unless set.
    pub fn progress_deadline(mut self, deadline: Duration) -> Self {
        self.session.progress_deadline = deadline;
        self
    }

    /// Limits how long an operation may take in all, news or not: queues, pauses, attempts and polls. As long as it takes unless set.
    ///
    /// It fails with `Timeout` when the deadline passes, and at once with `RateLimited` and [`Error::retry_at`](crate::Error::retry_at)
    /// when the server asks for a pause that leads beyond it. The deadline ends the waiting: a training call that has its place in the
    /// order is submitted all the same, at `retry_at` where there is one. So such a call must not be repeated
    /// ([`Sent::MaybeSent`](crate::Sent::MaybeSent)).
    pub fn operation_deadline(mut self, deadline: Duration) -> Self {
        self.session.operation_deadline = Some(deadline);
        self
    }

    /// The form of the bodies of training passes; found out unless set: protobuf, and JSON where a server refuses that. With one
    /// set, the other is never tried.
    pub fn body_format(mut self, format: BodyFormat) -> Self {
        self.session.bodies = Some(format);
        self
    }

    /// Limits of one's own, beside those that the server's configuration names. All clients of one server and key share them: the
    /// strictest value of each holds, and a client that asks for something else than the others is told so as a warning.
    pub fn limits(mut self, limits: LimiterSettings) -> Self {
        self.session.limits = Some(limits);
        self
    }

    /// How many threads the SDK's I/O runtime starts with; one unless set. Counts for the whole process, and only before
    /// the first client.
    pub fn io_threads(mut self, threads: NonZeroUsize) -> Self {
        self.io_threads = Some(threads);
        self
    }

    /// The pause between heartbeats; 10 s unless set, and never more than a third of what the server lets a session live.
    pub fn heartbeat_period(mut self, period: Duration) -> Self {
        self.session.heartbeat_period = period;
        self
    }

    /// Does all work on this runtime, whose life is then the caller's business, in place of the SDK's own. Heartbeats keep
    /// their own thread.
    pub fn runtime(mut self, handle: tokio::runtime::Handle) -> Self {
        self.runtime = Some(handle);
        self
    }

    /// Speaks HTTP/2 from the first byte, also without TLS. Servers that cannot will not be understood.
    pub fn http2_prior_knowledge(mut self) -> Self {
        self.protocol = Protocol::Http2PriorKnowledge;
        self
    }

    /// Trusts the certificates of this PEM text as well as the system's.
    pub fn root_certificate_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.root_certificates.push(pem.into());
        self
    }

    /// Puts a layer of one's own over the transport: it sees every request and answer but heartbeats, each repetition by itself,
    /// and passes them on. To count, to record, or to test what a program does when the network fails.
    ///
    /// A layer may make calls of its own before it passes a request on. Such a call is served at once or fails at once: a training call
    /// fails with `Unsupported` while the submission queue of its model is busy, perhaps with the very request that is being passed on.
    /// This holds for calls that are made and awaited in [`Transport::send`] and its future; in a task that the layer spawns they wait
    /// like any other, so the layer must not wait for that task.
    ///
    /// It sees no key, which is added below it. A later layer takes the place of an earlier one.
    pub fn layer_transport(
        mut self,
        layer: impl FnOnce(Arc<dyn Transport>) -> Arc<dyn Transport> + Send + Sync + 'static,
    ) -> Self {
        self.layer = Some(Box::new(layer));
        self
    }

    /// Asks the server for its configuration and opens a session, on any executor or none.
    ///
    /// # Errors
    /// `InvalidInput` and `Authentication` before anything is sent, `Connection` when there is no server, `Protocol` when it
    /// is no Tinker server, and what the server refuses. The first contact is made once, so a wrong address says so at once.
    pub async fn connect(self) -> Result<ServiceClient> {
        let environment = (self.environment)();
        let (base_url, url_variable) = match (&self.base_url, environment.base_url()) {
            (Some(given), _) => (given.as_str(), None),
            (None, Some(found)) => (found, Some(env::BASE_URL)),
            (None, None) => (HOSTED, None),
        };
        let address = BaseUrl::parse(base_url).map_err(|error| from(url_variable, error))?;
        let (api_key, key_variable) = match (&self.api_key, environment.api_key()) {
            (Some(given), _) => (Some(given.trim()).filter(|key| !key.is_empty()), None),
            (None, found) => (found, Some(env::API_KEY)),
        };
        key::check(api_key, address.is_hosted_service())
            .map_err(|error| from(key_variable, error))?;
        if let Some(threads) = self.io_threads {
            IoRuntime::set_shared_threads(threads)?;
        }
        let runtime = match &self.runtime {
            Some(handle) => IoRuntime::from_handle(handle.clone()),
            None => IoRuntime::shared()?,
        };
        let access = match environment.cloudflare() {
            // Half of a token is an error only where it may be needed: no such service stands before this machine.
            Err(_) if address.origin().is_loopback() => None,
            access => access?,
        };
        let heart = DedicatedThread::start("tinkers-heartbeat")?;
        let recovered_errors: Arc<RecoveredErrors> = Arc::default();
        let transport = |runtime: IoRuntime| -> Result<Arc<dyn Transport>> {
            let mut builder = HttpTransport::builder(base_url)
                .runtime(runtime)
                .recovered_errors(Arc::clone(&recovered_errors))
                .protocol(self.protocol);
            builder = builder
                .proxy(environment.proxies.clone())
                .root_files(environment.roots.clone());
            if let Some(key) = api_key {
                builder = builder.credential(Credential::api_key(key));
            }
            if let Some(access) = &access {
                builder = builder.cloudflare_access(access.clone());
            }
            for pem in &self.root_certificates {
                builder = builder.root_certificate_pem(pem.clone());
            }
            Ok(Arc::new(builder.build()?))
        };
        let endpoint_key = EndpointKey::new(address, api_key.map_or(&[][..], |key| key.as_bytes()));
        let below = transport(runtime.clone())?;
        let parts = SessionParts {
            transport: match self.layer {
                Some(layer) => layer(below),
                None => below,
            },
            time: runtime.time(),
            jitter: jitter(),
            endpoint: Endpoints::shared().get_or_create(endpoint_key),
            heartbeat: HeartbeatParts {
                transport: transport(heart.runtime())?,
                time: heart.runtime().time(),
                spawner: Arc::new(heart),
            },
            spawner: Arc::new(runtime),
            recovered_errors: Arc::clone(&recovered_errors),
        };
        let mut options = self.session;
        options.tags = self.tags.unwrap_or(environment.tags);
        options.project_id = options.project_id.or(environment.project_id);
        // Boxed, since its many steps would make the futures of all callers large.
        let session = Box::pin(Session::open(parts, options)).await?;
        Ok(ServiceClient::over(session))
    }
}

/// Says which variable a wrong setting came from.
fn from(variable: Option<&str>, error: Error) -> Error {
    match variable {
        Some(variable) => error.with_context(variable),
        None => error,
    }
}

/// Jitter that differs between processes and needs no secrets.
pub(crate) fn jitter() -> Arc<dyn Jitter> {
    use std::hash::{BuildHasher, RandomState};
    Arc::new(SplitMix::new(RandomState::new().hash_one("tinkers")))
}

impl fmt::Debug for ServiceClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the base URL either: what somebody pastes there may hold a password.
        f.debug_struct("ServiceClientBuilder")
            .field("api_key", &self.api_key.as_ref().map(|_| ".."))
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}
