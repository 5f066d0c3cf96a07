//! `Transport` over HTTP: connections by class, redirects, one retry of what a stale connection never carried.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, RANGE, USER_AGENT};
use http::{HeaderMap, HeaderValue, StatusCode};
use tinkers_core::{
    BaseUrl, BoxFuture, Clock, Error, HttpRequest, HttpResponse, RecoveredError, RecoveredErrors,
    RouteClass, Sent, Spawn, Transport, TransportError, TransportErrorKind,
};
use tokio::sync::{oneshot, watch};
use tracing::{Instrument, Span, field};

use crate::builder::HttpTransportBuilder;
use crate::credential::{Credential, OwnHeaders};
use crate::decode;
use crate::dial::{DialLimit, Dialer};
use crate::exchange::{Failed, Limits, Message, exchange};
use crate::failure;
use crate::pool::{ClassConnectionLimits, ClassConnectionStats, Ground, Patience, Pool};
use crate::proxy::ProxyConfig;
use crate::redirect::{self, MAX_HOPS};
use crate::runtime::IoRuntime;
use crate::target::{Place, Target};
use crate::tls::{Protocol, Tls};

/// Requests to one base URL. Cheap to clone; clones share the connections, which close with the last of them.
///
/// `send` may be awaited on any executor: the work runs on the transport's own runtime. Dropping its future resets the
/// HTTP/2 stream, or closes the HTTP/1.1 connection, that carries the request.
#[derive(Clone)]
pub struct HttpTransport {
    shared: Arc<Shared>,
}

struct Shared {
    base: BaseUrl,
    place: Arc<Place>,
    own: OwnHeaders,
    user_agent: HeaderValue,
    ground: Arc<Ground>,
    pool: Pool,
    gate: watch::Sender<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    closed: bool,
    running: usize,
}

impl Gate {
    fn is_over(&self) -> bool {
        self.closed && self.running == 0
    }
}

pub(crate) struct Parts {
    pub(crate) base: BaseUrl,
    pub(crate) place: Arc<Place>,
    pub(crate) own: OwnHeaders,
    pub(crate) user_agent: HeaderValue,
    pub(crate) tls: Tls,
    pub(crate) proxy: ProxyConfig,
    pub(crate) protocol: Protocol,
    pub(crate) lanes: [ClassConnectionLimits; RouteClass::ALL.len()],
    pub(crate) runtime: IoRuntime,
    pub(crate) time: Arc<dyn Clock>,
    pub(crate) recovered_errors: Arc<RecoveredErrors>,
}

impl HttpTransport {
    /// Settings of a transport to `base_url`, as in `https://host/prefix`.
    pub fn builder(base_url: impl Into<String>) -> HttpTransportBuilder {
        HttpTransportBuilder::new(base_url.into())
    }

    pub(crate) fn from_parts(parts: Parts) -> Self {
        let ground = Arc::new(Ground {
            dialer: Dialer::new(parts.tls, parts.proxy, parts.protocol),
            origin: parts.base.origin().clone(),
            runtime: parts.runtime,
            time: parts.time,
            recovered_errors: parts.recovered_errors,
        });
        let pool = Pool::new(&ground, &parts.lanes);
        Self {
            shared: Arc::new(Shared {
                base: parts.base,
                place: parts.place,
                own: parts.own,
                user_agent: parts.user_agent,
                ground,
                pool,
                gate: watch::Sender::default(),
            }),
        }
    }

    /// The normalised base URL.
    pub fn base_url(&self) -> &BaseUrl {
        &self.shared.base
    }

    /// Replaces the credential for requests sent from now on, or takes it away.
    ///
    /// Fails with `InvalidInput` that names `api_key` when it fits no header; the old one then stays.
    pub fn set_credential(&self, credential: Option<&Credential>) -> Result<(), Error> {
        self.shared.own.set_credential(credential)
    }

    /// The connections of `class` now.
    pub fn stats(&self, class: RouteClass) -> ClassConnectionStats {
        self.shared.pool.lane(class).stats()
    }

    /// Lets nothing more in: later sends fail with `Closed`, those under way go on to their end, and then all connections
    /// close. Harmless when repeated.
    pub fn close(&self) {
        self.shared.change(|gate| gate.closed = true);
    }

    /// Waits until [closed](Self::close) and nothing is under way. Cancel-safe.
    pub async fn closed(&self) {
        let mut gate = self.shared.gate.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        let _ = gate.wait_for(Gate::is_over).await;
    }
}

impl Transport for HttpTransport {
    fn send(
        &self,
        mut request: HttpRequest,
    ) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        Box::pin(async move {
            let running = Running::start(&self.shared)?;
            let began = Arc::new(AtomicBool::new(false));
            let (answer, answered) = oneshot::channel();
            let span = tracing::debug_span!(
                "http",
                method = %request.method,
                path = request.path.split('?').next().unwrap_or_default(),
                class = request.class.name(),
                status = field::Empty,
                connection = field::Empty,
            );
            let beginning = Arc::clone(&began);
            let work = async move {
                beginning.store(true, Ordering::Release);
                let outcome = running.0.run(&mut request).await;
                // Who waited may have left.
                let _ = answer.send(outcome);
            };
            let task = self
                .shared
                .ground
                .runtime
                .spawn(Box::pin(work.instrument(span)));
            match answered.await {
                Ok(outcome) => {
                    task.detach();
                    outcome
                }
                Err(_) => {
                    let sent = if began.load(Ordering::Acquire) {
                        Sent::MaybeSent
                    } else {
                        Sent::NotSent
                    };
                    Err(failure::aborted(&self.shared.ground.origin, sent))
                }
            }
        })
    }
}

impl fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpTransport")
            .field("base_url", &self.shared.base)
            .finish_non_exhaustive()
    }
}

/// A request under way, counted.
struct Running(Arc<Shared>);

impl Running {
    fn start(shared: &Arc<Shared>) -> Result<Self, TransportError> {
        let mut open = false;
        // Nobody waits for one more to be under way.
        shared.gate.send_if_modified(|gate| {
            open = !gate.closed;
            gate.running += usize::from(open);
            false
        });
        if open {
            Ok(Self(Arc::clone(shared)))
        } else {
            Err(failure::closed())
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.change(|gate| gate.running -= 1);
    }
}

impl Shared {
    /// Changes who may come and who is here, and closes the connections when nobody may come and nobody is left. Those who wait
    /// for that are woken then and not before: each call of the transport comes by here.
    fn change(&self, change: impl FnOnce(&mut Gate)) {
        let is_over = self.gate.send_if_modified(|gate| {
            change(gate);
            gate.is_over()
        });
        if is_over {
            self.pool.close();
        }
    }

    async fn run(&self, request: &mut HttpRequest) -> Result<HttpResponse, TransportError> {
        let started = self.ground.time.now();
        let limits = Limits {
            timeouts: request.timeouts,
            total_at: started.after(request.timeouts.total),
            max_bytes: request.max_response_bytes,
        };
        let mut outcome = self.follow(request, &limits).await;
        self.own.scrubber().clean(&mut outcome);
        let elapsed = || self.ground.time.now().since(started);
        match &outcome {
            Ok(response) => {
                Span::current().record("status", response.status.as_u16());
                tracing::debug!(elapsed = ?elapsed(), bytes = response.body.len(), "answered");
            }
            Err(error) => {
                tracing::debug!(elapsed = ?elapsed(), kind = ?error.kind, sent = ?error.sent, %error, "failed")
            }
        }
        outcome
    }

    async fn follow(
        &self,
        request: &mut HttpRequest,
        limits: &Limits,
    ) -> Result<HttpResponse, TransportError> {
        let path = Bytes::from(std::mem::take(&mut request.path));
        let target = Target::below(&self.place, self.base.prefix(), path.clone());
        let mut message = Message {
            target: target.ok_or_else(|| {
                failure::invalid(format!(
                    "the path {:?} is no path of a URL that opens with /",
                    String::from_utf8_lossy(&path)
                ))
            })?,
            method: &request.method,
            given: &request.headers,
            trusted: true,
            body: &request.body,
            departure: &request.departure,
        };
        for _ in 0..=MAX_HOPS {
            let response = if message.trusted {
                self.pooled(&message, request.class, limits).await?
            } else {
                // Rare, and large: it holds all of the set-up of a connection.
                Box::pin(self.once(&message, limits)).await?
            };
            let Some(target) = redirect::next(&message, &response)? else {
                return Ok(response);
            };
            tracing::debug!(status = response.status.as_u16(), to = %self.own.scrubber().text(&target.origin().to_string()), "redirected");
            // What left once is never trusted again, also when it is sent back here.
            message.trusted &= target.origin() == message.target.origin();
            message.target = target;
        }
        Err(redirect::too_many(&message))
    }

    /// All headers of `message` but the connection's own. They are put together for each hop, since they go with the request.
    fn headers(&self, message: &Message<'_>) -> HeaderMap {
        let room = message.given.len() + self.own.len() + USUAL;
        let mut headers = HeaderMap::with_capacity(room);
        for (name, value) in message.given {
            headers.append(name, value.clone());
        }
        headers
            .entry(USER_AGENT)
            .or_insert_with(|| self.user_agent.clone());
        headers
            .entry(ACCEPT)
            .or_insert(HeaderValue::from_static("application/json"));
        headers
            .entry(ACCEPT_ENCODING)
            .or_insert(HeaderValue::from_static(decode::ACCEPT_ENCODING));
        if message.trusted {
            self.own.add_to(&mut headers);
            headers
        } else {
            foreign(&headers)
        }
    }

    /// On a connection of the class. What a kept connection never carried goes out once more, on another.
    async fn pooled(
        &self,
        message: &Message<'_>,
        class: RouteClass,
        limits: &Limits,
    ) -> Result<HttpResponse, TransportError> {
        let lane = self.pool.lane(class);
        let patience = Patience {
            connect: limits.timeouts.connect,
            total: limits.timeouts.total,
            total_at: limits.total_at,
        };
        let mut retried = false;
        loop {
            let mut lease = lane.acquire(patience).await?;
            Span::current().record("connection", lease.id());
            let reused = lease.is_reused();
            let Some(link) = lease.link() else { continue };
            match exchange(
                link,
                message,
                self.headers(message),
                limits,
                &self.ground.time,
            )
            .await
            {
                // Some servers close the connection behind a handler that broke, without a word: a request that is on it then
                // is lost, and nobody knows whether it was read. An HTTP/2 connection lives on.
                Ok(response) if response.status == StatusCode::INTERNAL_SERVER_ERROR => {
                    drop(lease);
                    return Ok(response);
                }
                Ok(response) => {
                    lease.finish();
                    return Ok(response);
                }
                Err(Failed {
                    unprocessed: true,
                    error,
                }) if reused && !retried => {
                    retried = true;
                    drop(lease);
                    lane.purge_idle();
                    self.ground
                        .recovered_errors
                        .count(RecoveredError::Connection);
                    tracing::debug!(recovered_error = RecoveredError::Connection.name(), %error, "sent again on a fresh connection");
                }
                Err(Failed { error, .. }) => {
                    if error.kind == TransportErrorKind::Held {
                        lease.put_back();
                    }
                    return Err(error);
                }
            }
        }
    }

    /// On a connection of its own, to an origin that is not the base URL's.
    async fn once(
        &self,
        message: &Message<'_>,
        limits: &Limits,
    ) -> Result<HttpResponse, TransportError> {
        let Ground {
            dialer,
            runtime,
            time,
            ..
        } = &*self.ground;
        let origin = message.target.origin();
        let left = limits.total_at.since(time.now());
        let connect = limits.timeouts.connect.min(left);
        let dialed = dialer
            .dial_foreign(origin, DialLimit::within(connect, &**time))
            .await?;
        let mut link = dialed.link;
        // It ends by itself when `link` is dropped.
        let driver = dialed.driver;
        runtime.launch(async move { drop(driver.await) });
        exchange(&mut link, message, self.headers(message), limits, time)
            .await
            .map_err(|failed| failed.error)
    }
}

/// `User-Agent`, `Accept`, `Accept-Encoding` and `Host`.
const USUAL: usize = 4;

/// The headers that may go to an origin that is not the base URL's.
fn foreign(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for name in [ACCEPT, ACCEPT_ENCODING, USER_AGENT, RANGE] {
        if let Some(value) = headers.get(&name) {
            kept.insert(name, value.clone());
        }
    }
    kept
}
