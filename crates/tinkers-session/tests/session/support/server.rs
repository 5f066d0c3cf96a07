//! A server that answers by a script, one for each route, and keeps what it was asked.

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

/// One answer of the script.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reply {
    /// A status with a body.
    Status(u16, &'static str),
    /// A status with one header and an empty JSON object.
    Header(u16, &'static str, &'static str),
    /// What `Status` says, so much later.
    Late(Duration, u16, &'static str),
    /// The connection fails.
    Fails(TransportErrorKind, Sent),
    /// Never an answer.
    Hangs,
    /// A layer over the transport panics.
    Panics,
}

/// Which of the session's two transports carried a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    Main,
    Heart,
}

/// A request that came in.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) at: Timestamp,
    pub(crate) line: Line,
    pub(crate) request: HttpRequest,
}

impl Asked {
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

/// The scripted server.
#[derive(Debug)]
pub(crate) struct Server {
    clock: ManualClock,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    asked: Vec<Asked>,
    next: BTreeMap<String, VecDeque<Reply>>,
    usual: BTreeMap<String, Reply>,
}

impl Server {
    pub(crate) fn new(clock: ManualClock) -> Arc<Self> {
        let server = Self {
            clock,
            inner: Mutex::default(),
        };
        let created = Reply::Status(200, r#"{"session_id": "session-1"}"#);
        server.usually(routes::CREATE_SESSION, created);
        Arc::new(server)
    }

    /// The next requests on `path` are answered so, those behind them as usual.
    pub(crate) fn next(&self, path: &str, replies: impl IntoIterator<Item = Reply>) {
        let mut inner = self.lock();
        let script = inner.next.entry(path.to_owned()).or_default();
        script.extend(replies);
    }

    /// Every request on `path` is answered so, unless a reply for it comes before. An empty object if never told.
    pub(crate) fn usually(&self, path: &str, reply: Reply) {
        self.lock().usual.insert(path.to_owned(), reply);
    }

    /// All that was asked, in order.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.lock().asked.clone()
    }

    pub(crate) fn on_line(&self, line: Line) -> Vec<Asked> {
        let mut asked = self.asked();
        asked.retain(|asked| asked.line == line);
        asked
    }

    pub(crate) fn on_path(&self, path: &str) -> Vec<Asked> {
        let mut asked = self.asked();
        asked.retain(|asked| asked.path() == path);
        asked
    }

    /// A transport to this server.
    pub(crate) fn line(self: &Arc<Self>, line: Line) -> Arc<dyn Transport> {
        Arc::new(Wire {
            server: Arc::clone(self),
            line,
        })
    }

    fn take(&self, line: Line, request: HttpRequest) -> Reply {
        let at = self.clock.now();
        let mut inner = self.lock();
        let path = request.path.clone();
        inner.asked.push(Asked { at, line, request });
        let scripted = inner.next.get_mut(&path).and_then(VecDeque::pop_front);
        let usual = || inner.usual.get(&path).copied();
        scripted.or_else(usual).unwrap_or(Reply::Status(200, "{}"))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no test panics in here")
    }
}

#[derive(Debug)]
struct Wire {
    server: Arc<Server>,
    line: Line,
}

impl Transport for Wire {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        Box::pin(async move {
            match self.server.take(self.line, request) {
                Reply::Status(status, body) => Ok(answer(status, HeaderMap::new(), body)),
                Reply::Header(status, name, value) => {
                    let mut headers = HeaderMap::new();
                    headers.insert(
                        HeaderName::from_static(name),
                        HeaderValue::from_static(value),
                    );
                    Ok(answer(status, headers, "{}"))
                }
                Reply::Late(delay, status, body) => {
                    let time: &dyn Clock = &self.server.clock;
                    time.sleep(delay).await;
                    Ok(answer(status, HeaderMap::new(), body))
                }
                Reply::Fails(kind, sent) => Err(TransportError::new(kind, sent, "no connection")),
                Reply::Hangs => std::future::pending().await,
                // Without the hook, which would print it.
                Reply::Panics => std::panic::resume_unwind(Box::new("a layer panicked")),
            }
        })
    }
}

fn answer(status: u16, headers: HeaderMap, body: &'static str) -> HttpResponse {
    HttpResponse {
        status: StatusCode::from_u16(status).expect("a valid status"),
        headers,
        body: Bytes::from_static(body.as_bytes()),
    }
}
