//! The connection of the clients: requests with retries, with and without a session.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tinkers_auth::Auth;
use tinkers_core::{
    Accepted, Call, CallPolicy, Caller, ClientId, ErrorKind, HttpResponse, Result, RouteClass,
    Spawn, Task, Timestamp, client_config, json_response,
};
use tinkers_futures::{call_on_io, on_io};
use tinkers_wire::to_json;
use tokio::sync::OnceCell;

use crate::missing_route;

/// The time limit of each request that is not retried, including its wait for the rate limits.
const ONE_REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// The parts of a client: how it makes requests, and for whom.
#[derive(Debug, Clone)]
pub struct RestParts {
    /// The caller, with the rate limits and retries of the server and API key.
    pub caller: Caller,
    /// The spawner of tasks on the I/O runtime.
    pub spawner: Arc<dyn Spawn>,
    /// The client id, which selects the queue of the rate limiter.
    pub client: ClientId,
    /// The authentication of the transport, if it has one.
    pub auth: Option<Arc<Auth>>,
    /// Whether the client has to find out before its first request whether the server exchanges credentials for tokens. A session has
    /// done so when it was opened.
    pub is_without_session: bool,
    /// The time limit of a call, including its waits and retries; `None` for no limit.
    pub operation_deadline: Option<Duration>,
    /// The project of copies, unless the copy names another.
    pub project_id: Option<String>,
    /// A value that lives as long as the client, such as the session or the shared rate limits.
    pub keep_alive: Arc<dyn KeepAlive>,
}

/// A value that is only kept alive.
pub trait KeepAlive: Any + Send + Sync + std::fmt::Debug {}

impl<T: Any + Send + Sync + std::fmt::Debug> KeepAlive for T {}

/// The connection that a client and its clones, lists and streams share.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) parts: RestParts,
    /// Set when the client has found out whether the server exchanges credentials. Contains the refresh of the token.
    exchanged: OnceCell<Option<Task>>,
}

/// One request: the name of the public method, the route for error messages, and the call.
#[derive(Debug)]
pub(crate) struct Request {
    route: &'static str,
    call: Call,
    /// Whether the request is not retried, and has the time limit [`ONE_REQUEST_LIMIT`].
    is_single: bool,
    /// Whether the response contains signed addresses, which must not occur in errors.
    has_signed_urls: bool,
}

impl Request {
    /// Creates a request without a body. `route` is the path of the route with placeholders.
    pub(crate) fn new(
        operation: &'static str,
        method: Method,
        route: &'static str,
        path: impl Into<String>,
    ) -> Self {
        let mut call = Call::get(path, RouteClass::Rest);
        call.method = method;
        Self::of(operation, route, call)
    }

    /// Creates a request with a JSON body.
    pub(crate) fn with_body(
        operation: &'static str,
        method: Method,
        route: &'static str,
        path: impl Into<String>,
        body: &impl Serialize,
    ) -> Self {
        let mut call = Call::post(path, to_json(body), RouteClass::Rest);
        call.method = method;
        Self::of(operation, route, call)
    }

    fn of(operation: &'static str, route: &'static str, mut call: Call) -> Self {
        call.operation = Some(operation);
        Self {
            route,
            call,
            is_single: false,
            has_signed_urls: false,
        }
    }

    /// Returns the request, changed so that it is not sent again if the server may have applied it.
    pub(crate) fn at_most_once(mut self) -> Self {
        self.call.policy = self.call.policy.giving_up_when_maybe_applied();
        self
    }

    /// Returns the request, changed so that it is not retried after a failure, and fails after 30 s, including its wait for the rate
    /// limits. A 402 response is a failure, too.
    pub(crate) fn once(mut self) -> Self {
        self.is_single = true;
        self
    }

    /// Returns the request, changed so that errors do not quote its response, which contains signed addresses.
    pub(crate) fn with_signed_urls(mut self) -> Self {
        self.has_signed_urls = true;
        self
    }

    /// Returns the request, changed so that it fails at `deadline`, if the client has no earlier deadline.
    pub(crate) fn until(mut self, deadline: Timestamp) -> Self {
        self.call.deadline = Some(deadline);
        self
    }

    /// Returns the headers of the request.
    pub(crate) fn headers_mut(&mut self) -> &mut http::HeaderMap {
        &mut self.call.headers
    }
}

impl Connection {
    pub(crate) fn new(parts: RestParts) -> Arc<Self> {
        Arc::new(Self {
            parts,
            exchanged: OnceCell::new(),
        })
    }

    /// Sends a request with its retries, and decodes the response, which must be a JSON object.
    pub(crate) async fn get<T: DeserializeOwned>(&self, request: Request) -> Result<T> {
        self.exchange_if_required().await?;
        self.get_with_key(request).await
    }

    /// Sends and decodes like [`get`](Self::get), without finding out first whether the server exchanges credentials.
    pub(crate) async fn get_with_key<T: DeserializeOwned>(
        &self,
        mut request: Request,
    ) -> Result<T> {
        let (route, operation) = (request.route, request.call.operation);
        let has_signed_urls = request.has_signed_urls;
        request.call.is_readable = Some(is_object);
        let accepted = self.send_now(request).await?;
        let decode: fn(&HttpResponse, &str) -> Result<T> = match has_signed_urls {
            true => json_response::decode_secret,
            false => json_response::decode,
        };
        decode(&accepted.response, route).map_err(|error| match operation {
            Some(operation) => error.with_operation(operation),
            None => error,
        })
    }

    /// Sends a request with its retries. The body of the response is ignored.
    pub(crate) async fn send(&self, request: Request) -> Result<Accepted> {
        self.exchange_if_required().await?;
        self.send_now(request).await
    }

    /// Sends a request, without finding out first whether the server exchanges credentials.
    pub(crate) async fn send_now(&self, request: Request) -> Result<Accepted> {
        let (route, mut call) = (request.route, request.call);
        call.client = self.parts.client;
        let caller = match request.is_single {
            true => self.limit_to_one_request(&mut call),
            false => self.parts.caller.clone(),
        };
        let now = self.parts.caller.time.now();
        let limit = self.parts.operation_deadline.map(|limit| now.after(limit));
        call.deadline = match (call.deadline, limit) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let method = call.method.clone();
        let sent = call_on_io(&*self.parts.spawner, caller, call).await;
        sent.map_err(|error| missing_route::classify(error, &method, route))
    }

    /// Changes a call so that it is not retried and fails after [`ONE_REQUEST_LIMIT`], also while the server responds with 429. Returns the
    /// caller for it, which does not wait until a bill is paid.
    fn limit_to_one_request(&self, call: &mut Call) -> Caller {
        let mut caller = self.parts.caller.clone();
        call.policy = CallPolicy::ONCE;
        call.attempt_limit = Some(ONE_REQUEST_LIMIT);
        call.deadline = Some(caller.time.now().after(ONE_REQUEST_LIMIT));
        caller.billing.limit = Duration::ZERO;
        caller
    }

    /// Waits until a time, on the I/O runtime.
    pub(crate) async fn sleep_until(&self, at: Timestamp) -> Result<()> {
        let time = Arc::clone(&self.parts.caller.time);
        let wait = Box::pin(async move {
            time.sleep_until(at).await;
            Ok(())
        });
        on_io(&*self.parts.spawner, wait).await
    }

    /// Before the first request of a client without a session, finds out whether the server exchanges credentials for tokens, and if so
    /// exchanges the credential. Concurrent calls wait for one exchange. If it fails, the next call tries again.
    pub(crate) async fn exchange_if_required(&self) -> Result<()> {
        if self.parts.is_without_session {
            self.exchanged.get_or_try_init(|| self.exchange()).await?;
        }
        Ok(())
    }

    async fn exchange(&self) -> Result<Option<Task>> {
        let Some(auth) = self.parts.auth.clone() else {
            return Ok(None);
        };
        let mut caller = self.parts.caller.clone();
        caller.billing.limit = Duration::ZERO;
        let spawner = &self.parts.spawner;
        let request = Box::pin(async move { client_config(&caller).await });
        let config = match on_io(&**spawner, request).await {
            Ok(Some(config)) if config.pjwt_auth_enabled => config,
            Ok(_) => return Ok(None),
            Err(error) if matches!(error.kind(), ErrorKind::Connection | ErrorKind::Timeout) => {
                return Err(error.with_context("cannot reach the server; check base_url"));
            }
            Err(error) => return Err(error),
        };
        let from_command = config.requires_credential_command();
        let exchange = Box::pin(async move { auth.start_exchange(from_command).await });
        let refresh = on_io(&**spawner, exchange).await?;
        Ok(Some(spawner.spawn(refresh)))
    }
}

fn is_object(response: &HttpResponse) -> bool {
    json_response::is_object(&response.body)
}
