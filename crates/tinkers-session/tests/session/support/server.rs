//! A server that sends scripted replies for each route and records its requests.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::Value;
use tinkers_core::{
    BoxFuture, Clock, HttpRequest, HttpResponse, ManualClock, Sent, Timestamp, Transport,
    TransportError, TransportErrorKind,
};
use tinkers_wire::routes;

/// A reply of the fake server to one request, as set by the test.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reply {
    /// A response with a status and a body.
    Status(u16, &'static str),
    /// A response with a status, one header, and an empty JSON object as the body.
    Header(u16, &'static str, &'static str),
    /// A response with a status and a body, after a delay.
    Late(Duration, u16, &'static str),
    /// A transport error of this kind.
    Fails(TransportErrorKind, Sent),
    /// No response, so that the request fails by its timeout.
    Hangs,
    /// The transport panics instead of sending the request.
    Panics,
}

/// The transport on which a request was sent: the transport of heartbeats, or the transport of all other requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    Main,
    Heartbeat,
}

/// A request that the fake server has received, with its time and the transport on which it was sent.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    pub(crate) at: Timestamp,
    pub(crate) channel: Channel,
    pub(crate) request: HttpRequest,
}

impl Recorded {
    pub(crate) fn path(&self) -> &str {
        &self.request.path
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.at.since_origin().as_secs_f64()
    }

    pub(crate) fn body(&self) -> Value {
        serde_json::from_slice(&self.request.body).expect("the body is JSON")
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.request.headers.get(name)?.to_str().ok()
    }
}

/// A fake server whose replies are set by the test. By default it creates a session with the id `session-1`.
#[derive(Debug)]
pub(crate) struct Server {
    clock: ManualClock,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    requests: Vec<Recorded>,
    next: BTreeMap<String, VecDeque<Reply>>,
    default: BTreeMap<String, Reply>,
}

impl Server {
    pub(crate) fn new(clock: ManualClock) -> Arc<Self> {
        let server = Self {
            clock,
            inner: Mutex::default(),
        };
        let created = Reply::Status(200, r#"{"session_id": "session-1"}"#);
        server.set_default(routes::CREATE_SESSION, created);
        Arc::new(server)
    }

    /// Sets the replies of the fake server to the next requests to `path`, in order.
    pub(crate) fn script(&self, path: &str, replies: impl IntoIterator<Item = Reply>) {
        let mut inner = self.lock();
        let script = inner.next.entry(path.to_owned()).or_default();
        script.extend(replies);
    }

    /// Sets the reply of the fake server to requests to `path` for which there is no reply from [`Server::script`]. By default, this reply
    /// is an empty JSON object.
    pub(crate) fn set_default(&self, path: &str, reply: Reply) {
        self.lock().default.insert(path.to_owned(), reply);
    }

    /// Returns all recorded requests in order.
    pub(crate) fn requests(&self) -> Vec<Recorded> {
        self.lock().requests.clone()
    }

    pub(crate) fn requests_on(&self, channel: Channel) -> Vec<Recorded> {
        let mut requests = self.requests();
        requests.retain(|request| request.channel == channel);
        requests
    }

    pub(crate) fn requests_to(&self, path: &str) -> Vec<Recorded> {
        let mut requests = self.requests();
        requests.retain(|request| request.path() == path);
        requests
    }

    /// Creates a transport to this server. The server records its requests with the label `channel`.
    pub(crate) fn transport(self: &Arc<Self>, channel: Channel) -> Arc<dyn Transport> {
        Arc::new(Wire {
            server: Arc::clone(self),
            channel,
        })
    }

    fn take(&self, channel: Channel, request: HttpRequest) -> Reply {
        let at = self.clock.now();
        let mut inner = self.lock();
        let path = request.path.clone();
        inner.requests.push(Recorded {
            at,
            channel,
            request,
        });
        let scripted = inner.next.get_mut(&path).and_then(VecDeque::pop_front);
        let default = || inner.default.get(&path).copied();
        scripted
            .or_else(default)
            .unwrap_or(Reply::Status(200, "{}"))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("the lock is not poisoned")
    }
}

#[derive(Debug)]
struct Wire {
    server: Arc<Server>,
    channel: Channel,
}

impl Transport for Wire {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        Box::pin(async move {
            match self.server.take(self.channel, request) {
                Reply::Status(status, body) => Ok(response(status, HeaderMap::new(), body)),
                Reply::Header(status, name, value) => {
                    let mut headers = HeaderMap::new();
                    headers.insert(
                        HeaderName::from_static(name),
                        HeaderValue::from_static(value),
                    );
                    Ok(response(status, headers, "{}"))
                }
                Reply::Late(delay, status, body) => {
                    let time: &dyn Clock = &self.server.clock;
                    time.sleep(delay).await;
                    Ok(response(status, HeaderMap::new(), body))
                }
                Reply::Fails(kind, sent) => Err(TransportError::new(kind, sent, "no connection")),
                Reply::Hangs => std::future::pending().await,
                // Does not call the panic hook.
                Reply::Panics => std::panic::resume_unwind(Box::new("a panic in the transport")),
            }
        })
    }
}

fn response(status: u16, headers: HeaderMap, body: &'static str) -> HttpResponse {
    HttpResponse {
        status: StatusCode::from_u16(status).expect("a valid status"),
        headers,
        body: Bytes::from_static(body.as_bytes()),
    }
}
