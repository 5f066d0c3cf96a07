//! The settings of a service client, and the connection to the server.

mod connection_plan;
mod signed_file;

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tinkers_auth::{Auth, AuthTransport, Credential};
use tinkers_core::{
    BodyFormat, Clock, Error, Jitter, RecoveredErrors, Result, RetryPolicy, RouteClass, Spawn,
    SplitMix, Timeouts, Transport,
};
use tinkers_dispatch::LimiterSettings;
use tinkers_session::{
    Endpoint, EndpointKey, Endpoints, HeartbeatParts, Session, SessionOptions, SessionParts,
};
use tinkers_transport::{
    ClassConnectionLimits, ClientCertificate, DedicatedThread, HttpTransport, HttpVersions,
    IoRuntime, ProxyConfig,
};

use self::connection_plan::ConnectionPlan;
pub(crate) use self::connection_plan::address;
use crate::ServiceClient;
use crate::default_headers::DefaultHeaders;
use crate::environment::Environment;

/// The base URL of the hosted service, which clients use if neither the program nor the environment names a server.
pub const HOSTED_SERVICE: &str = "https://tinker.thinkingmachines.dev/services/tinker-prod";

/// The settings of a [`ServiceClient`]. Missing settings are read from the [`Environment`], unless
/// [`without_environment`](ServiceClientBuilder::without_environment) is called.
#[must_use = "nothing happens before connect() is awaited"]
pub struct ServiceClientBuilder {
    base_url: Option<String>,
    credential: Option<Credential>,
    session: SessionOptions,
    tags: Option<Vec<String>>,
    telemetry: Option<bool>,
    io_threads: Option<NonZeroUsize>,
    runtime: Option<tokio::runtime::Handle>,
    http_versions: HttpVersions,
    root_certificates: Vec<Vec<u8>>,
    has_system_roots: bool,
    client_certificate: Option<ClientCertificate>,
    proxy: Option<ProxyConfig>,
    connection_limits: Vec<(RouteClass, ClassConnectionLimits)>,
    default_headers: DefaultHeaders,
    user_agent_suffix: Option<String>,
    layer: Option<Layer>,
    environment: fn() -> Environment,
}

type Layer = Box<dyn FnOnce(Arc<dyn Transport>) -> Arc<dyn Transport> + Send + Sync>;

impl ServiceClientBuilder {
    pub(crate) fn new() -> Self {
        Self {
            base_url: None,
            credential: None,
            session: SessionOptions::default(),
            tags: None,
            telemetry: None,
            io_threads: None,
            runtime: None,
            http_versions: HttpVersions::default(),
            root_certificates: Vec::new(),
            has_system_roots: true,
            client_certificate: None,
            proxy: None,
            connection_limits: Vec::new(),
            default_headers: DefaultHeaders::default(),
            user_agent_suffix: None,
            layer: None,
            environment: Environment::read,
        }
    }

    /// Ignores the environment variables, `TINKER_*` and those for proxies and root certificates, and the stored key of
    /// `tinkers auth login`. The certificates of the system are trusted.
    pub fn without_environment(mut self) -> Self {
        self.environment = Environment::default;
        self
    }

    /// Sets the base URL of the server, such as `http://127.0.0.1:8000`. The path of this URL is prepended to the paths of the API.
    pub fn base_url(mut self, base_url: impl Into<String>) -> Self {
        self.base_url = Some(base_url.into());
        self
    }

    /// Sets the API key or the JWT that is sent in the header `X-API-Key`. White space around it is removed. It is sent only to the origin
    /// of the base URL, and does not occur in logs, errors or spans. An empty API key stands for none, even if `TINKER_API_KEY` is set.
    ///
    /// If the server requires it, the client exchanges the API key for a short-lived token, sends the token instead, and refreshes it before
    /// it expires.
    pub fn api_key(self, api_key: impl Into<String>) -> Self {
        self.credential(Credential::api_key(api_key))
    }

    /// Sets the credential, for servers that require another header than `X-API-Key`, or for credentials that a command prints. Replaces
    /// the API key.
    ///
    /// Without a credential, the client looks for `TINKER_API_KEY`, then for the command in `TINKER_CREDENTIAL_CMD`, and then for the key
    /// that `tinkers auth login` or `tinker auth login` has stored. See [`auth`](crate::auth).
    ///
    /// ```
    /// use tinkers::ServiceClient;
    /// use tinkers::auth::Credential;
    ///
    /// let builder = ServiceClient::builder()
    ///     .base_url("https://models.example.com")
    ///     .credential(Credential::bearer("token"));
    /// assert!(!format!("{builder:?}").contains("token"));
    /// ```
    pub fn credential(mut self, credential: Credential) -> Self {
        self.credential = Some(credential);
        self
    }

    /// Sets the project that the session belongs to.
    pub fn project_id(mut self, project_id: impl Into<String>) -> Self {
        self.session.project_id = Some(project_id.into());
        self
    }

    /// Sets the display name of the session. It does not have to be unique.
    pub fn display_name(mut self, name: impl Into<String>) -> Self {
        self.session.display_name = Some(name.into());
        self
    }

    /// Sets the tags of the session.
    pub fn tags(mut self, tags: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.tags = Some(tags.into_iter().map(Into::into).collect());
        self
    }

    /// Sets the metadata of the session: strings that the program chooses.
    pub fn user_metadata(mut self, metadata: BTreeMap<String, String>) -> Self {
        self.session.user_metadata = metadata;
        self
    }

    /// Sets the time without any progress after which an operation fails with `Stalled`; two hours by default.
    pub fn progress_deadline(mut self, deadline: Duration) -> Self {
        self.session.progress_deadline = deadline;
        self
    }

    /// Sets the time limit of an operation, including queues, pauses, retries and polls; none by default.
    ///
    /// An operation fails with `Timeout` when the limit is exceeded. It fails at once with `RateLimited` and
    /// [`Error::retry_at`](crate::Error::retry_at) if the server asks to retry only after the limit. Only the wait ends: a training call
    /// that is in the submission queue is still submitted, at `retry_at` if the error has one. Therefore do not repeat such a call
    /// ([`Sent::MaybeSent`](crate::Sent::MaybeSent)).
    pub fn operation_deadline(mut self, deadline: Duration) -> Self {
        self.session.operation_deadline = Some(deadline);
        self
    }

    /// Sets the format of the request bodies of forward-backward passes. By default, protobuf is tried first, and JSON if the server
    /// rejects protobuf.
    pub fn body_format(mut self, format: BodyFormat) -> Self {
        self.session.body_format = Some(format);
        self
    }

    /// Sets rate limits, in addition to the limits in the configuration of the server. All clients with the same server and API key share
    /// their limits: the strictest value applies, and different values are logged as a warning.
    pub fn limits(mut self, limits: LimiterSettings) -> Self {
        self.session.limits = Some(limits);
        self
    }

    /// Sets the number of threads of the I/O runtime; one by default. All clients of the process share the runtime, so the number of
    /// threads cannot be changed after the first client.
    pub fn io_threads(mut self, threads: NonZeroUsize) -> Self {
        self.io_threads = Some(threads);
        self
    }

    /// Sets whether the session reports telemetry events to the server. By default, `TINKER_TELEMETRY` decides, and without this variable
    /// the events are reported, as by the Python SDK.
    ///
    /// The events are the start and the end of the session, failed operations, and the numbers of recovered errors at the end. An event
    /// contains names of operations, kinds of errors and numbers, but neither inputs nor texts of errors. The events are sent at most every
    /// ten seconds or in batches of 100, and never delay a call. A server without a route for them gets one request.
    pub fn telemetry(mut self, is_on: bool) -> Self {
        self.telemetry = Some(is_on);
        self
    }

    /// Sets the interval of heartbeats; 10 s by default, and at most a third of the time after which the server ends a session.
    pub fn heartbeat_period(mut self, period: Duration) -> Self {
        self.session.heartbeat_period = period;
        self
    }

    /// Replaces the I/O runtime of the SDK by a runtime of the caller. The caller must keep the runtime running. Heartbeats stay on their
    /// own thread.
    pub fn runtime(mut self, handle: tokio::runtime::Handle) -> Self {
        self.runtime = Some(handle);
        self
    }

    /// Adds a header to every request to the origin of the base URL, including heartbeats. A redirect to another origin does not carry
    /// the header. A later value replaces an earlier value of the same header.
    ///
    /// The value does not occur in `Debug` output. If the name contains `auth`, `cookie`, `key`, `password`, `secret` or `token`, the value
    /// is also masked in responses and errors, as the API key is. Headers that the SDK sets itself, such as `user-agent` and `x-api-key`,
    /// are rejected by [`connect`](Self::connect).
    pub fn default_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.default_headers.add(name, value);
        self
    }

    /// Adds headers, each like [`default_header`](Self::default_header).
    pub fn default_headers(
        mut self,
        headers: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>,
    ) -> Self {
        for (name, value) in headers {
            self.default_headers.add(name, value);
        }
        self
    }

    /// Appends a text, such as `my-program/1.2`, to the `User-Agent` of the SDK, `tinkers/<version>`.
    pub fn user_agent_suffix(mut self, suffix: impl Into<String>) -> Self {
        self.user_agent_suffix = Some(suffix.into());
        self
    }

    /// Sets the time limit for opening a connection, including the TLS handshake; 5 s by default. The limit applies to all route classes,
    /// and replaces the value of an earlier call of [`timeouts`](Self::timeouts).
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.session.timeouts.set_connect(limit);
        self
    }

    /// Sets the timeouts of one request of a route class, such as [`RouteClass::Train`]; [`Timeouts::of`] returns the defaults. After a
    /// timeout, the request is retried if the [`retry_policy`](Self::retry_policy) allows this and a retry is safe. For the time limit of a
    /// whole operation see [`operation_deadline`](Self::operation_deadline).
    ///
    /// Some requests of the class `Control` have a shorter limit of their own: heartbeats, the refresh of the configuration, and the close.
    pub fn timeouts(mut self, class: RouteClass, timeouts: Timeouts) -> Self {
        self.session.timeouts.set(class, timeouts);
        self
    }

    /// Sets the retry policy: which failed requests are retried, how often, and after which pauses.
    pub fn retry_policy(mut self, policy: RetryPolicy) -> Self {
        self.session.retry_policy = policy;
        self
    }

    /// Sets the connection limits of a route class; [`ClassConnectionLimits::of`] returns the defaults. The limits apply to this client
    /// only.
    pub fn connection_limits(mut self, class: RouteClass, limits: ClassConnectionLimits) -> Self {
        self.connection_limits.push((class, limits));
        self
    }

    /// Sets the HTTP versions that the client may use. By default, the version is negotiated in the TLS handshake, and is HTTP/1.1 without
    /// TLS.
    pub fn http_versions(mut self, versions: HttpVersions) -> Self {
        self.http_versions = versions;
        self
    }

    /// Sets the proxies, in place of the proxies from the environment variables. With [`ProxyConfig::none`], no proxy is used.
    pub fn proxy(mut self, proxy: ProxyConfig) -> Self {
        self.proxy = Some(proxy);
        self
    }

    /// Trusts the certificates in a PEM text, in addition to the certificates of the system.
    pub fn root_certificate_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.root_certificates.push(pem.into());
        self
    }

    /// Trusts only the certificates of [`root_certificate_pem`](Self::root_certificate_pem), and neither the certificates of the system nor
    /// those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
    pub fn without_system_root_certificates(mut self) -> Self {
        self.has_system_roots = false;
        self
    }

    /// Sets the certificate with which the client authenticates itself to the server (mutual TLS): a certificate chain and an unencrypted
    /// private key in PEM form. The client's own certificate is the first of the chain.
    ///
    /// Only the origin of the base URL gets the certificate. The private key does not occur in `Debug` output, logs or errors, and its text
    /// is overwritten in memory after use.
    pub fn client_certificate_pem(
        mut self,
        chain: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        self.client_certificate = Some(ClientCertificate::from_pem(chain, key));
        self
    }

    /// Wraps the transport in a layer, for example to count or record requests, or to simulate network errors. The layer gets every request
    /// and response, including retries, but no heartbeats. The layer does not receive the API key. A second layer replaces the first.
    ///
    /// A layer may make calls of the SDK itself before it passes a request on. Such a call never waits: a training call fails with
    /// `Unsupported` while the submission queue of its model is busy, possibly with the request that the layer handles. This applies to
    /// calls that are made and awaited in the future of [`Transport::send`]. In a task that the layer spawns, calls may wait, so the layer
    /// must not wait for the task.
    pub fn layer_transport(
        mut self,
        layer: impl FnOnce(Arc<dyn Transport>) -> Arc<dyn Transport> + Send + Sync + 'static,
    ) -> Self {
        self.layer = Some(Box::new(layer));
        self
    }

    /// Reads the configuration of the server and opens a session. Can be awaited on any executor.
    ///
    /// # Errors
    /// `InvalidInput` or `Authentication` for invalid settings, before anything is sent. `Connection` if the server is not reachable, and
    /// `Protocol` if the server is not a Tinker server; the first request is not retried, so a wrong address fails at once. Otherwise the
    /// errors that the server returns.
    pub async fn connect(self) -> Result<ServiceClient> {
        // The builder can be awaited directly, too. The future is boxed there, since it is large and would be part of all callers' futures.
        self.await
    }

    pub(crate) async fn open(self) -> Result<ServiceClient> {
        let variables = (self.environment)();
        let plan = ConnectionPlan::new(&self, &variables)?;
        let runtime = self.io_runtime()?;
        // All sessions of the process share the thread, which ends with the last one.
        let heartbeat_thread = DedicatedThread::shared("tinkers-heartbeat")?;
        let auth = plan.auth(&self, &variables, &runtime)?;
        let transport = |runtime: IoRuntime| -> Result<Arc<dyn Transport>> {
            let http = plan.transport(&self, &variables, runtime)?;
            Ok(Arc::new(AuthTransport::new(http, Arc::clone(&auth))))
        };
        let endpoint_key = EndpointKey::new(plan.address.clone(), auth.fingerprint_source());
        let main = transport(runtime.clone())?;
        // Connections of its own, on the thread of heartbeats.
        let heartbeat = transport(heartbeat_thread.runtime())?;
        let parts = SessionParts {
            transport: match self.layer {
                Some(layer) => layer(main),
                None => main,
            },
            time: runtime.clock(),
            jitter: jitter(),
            endpoint: Endpoints::shared().get_or_create(endpoint_key),
            heartbeat: HeartbeatParts {
                transport: heartbeat,
                time: heartbeat_thread.runtime().clock(),
                spawner: heartbeat_thread,
            },
            spawner: Arc::new(runtime),
            auth: Some(auth),
            recovered_errors: Arc::clone(&plan.recovered_errors),
        };
        let mut options = self.session;
        options.telemetry = self.telemetry.unwrap_or(variables.telemetry());
        options.tags = self.tags.unwrap_or(variables.tags);
        options.project_id = options.project_id.or(variables.project_id);
        let session = Session::open(parts, options).await?;
        Ok(ServiceClient::from_session(session))
    }

    /// Returns the parts of a client without a session.
    pub(crate) fn sessionless_parts(self) -> Result<SessionlessParts> {
        let variables = (self.environment)();
        let plan = ConnectionPlan::new(&self, &variables)?;
        self.session.check()?;
        let runtime = self.io_runtime()?;
        let auth = plan.auth(&self, &variables, &runtime)?;
        let endpoint_key = EndpointKey::new(plan.address.clone(), auth.fingerprint_source());
        let http = plan.transport(&self, &variables, runtime.clone())?;
        let transport: Arc<dyn Transport> = Arc::new(AuthTransport::new(http, Arc::clone(&auth)));
        let transport = match self.layer {
            Some(layer) => layer(transport),
            None => transport,
        };
        let mut options = self.session;
        options.project_id = options.project_id.or(variables.project_id);
        Ok(SessionlessParts {
            transport,
            auth,
            time: runtime.clock(),
            spawner: Arc::new(runtime),
            jitter: jitter(),
            endpoint: Endpoints::shared().get_or_create(endpoint_key),
            recovered_errors: Arc::clone(&plan.recovered_errors),
            options,
        })
    }

    fn io_runtime(&self) -> Result<IoRuntime> {
        if let Some(threads) = self.io_threads {
            IoRuntime::set_shared_threads(threads)?;
        }
        match &self.runtime {
            Some(handle) => Ok(IoRuntime::from_handle(handle.clone())),
            None => IoRuntime::shared(),
        }
    }
}

/// The parts of a client without a session, such as the authenticated transport and the shared rate limits.
pub(crate) struct SessionlessParts {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) auth: Arc<Auth>,
    pub(crate) time: Arc<dyn Clock>,
    pub(crate) spawner: Arc<dyn Spawn>,
    pub(crate) jitter: Arc<dyn Jitter>,
    pub(crate) endpoint: Endpoint,
    pub(crate) recovered_errors: Arc<RecoveredErrors>,
    pub(crate) options: SessionOptions,
}

impl ServiceClientBuilder {
    /// Returns the value of the `User-Agent` header: that of the SDK, with the suffix of the caller.
    ///
    /// # Errors
    /// `InvalidInput` with the field `user_agent_suffix`.
    fn user_agent(&self) -> Result<String> {
        let Some(suffix) = self.user_agent_suffix.as_deref() else {
            return Ok(HttpTransport::USER_AGENT.to_owned());
        };
        let is_visible = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
        if suffix.trim().is_empty() || !suffix.bytes().all(is_visible) {
            let expected = "a text of visible ASCII characters that is not empty";
            return Err(Error::invalid("user_agent_suffix", expected));
        }
        Ok(format!("{} {}", HttpTransport::USER_AGENT, suffix.trim()))
    }
}

/// Returns a jitter source with a random seed, so that the jitter of two processes differs.
pub(crate) fn jitter() -> Arc<dyn Jitter> {
    use std::hash::{BuildHasher, RandomState};
    Arc::new(SplitMix::new(RandomState::new().hash_one("tinkers")))
}

impl fmt::Debug for ServiceClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the base URL, which may contain a password.
        f.debug_struct("ServiceClientBuilder")
            .field("credential", &self.credential)
            .field("session", &self.session)
            .field("default_headers", &self.default_headers)
            .field("proxy", &self.proxy)
            .finish_non_exhaustive()
    }
}
