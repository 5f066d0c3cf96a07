//! The HTTP transport: pooled connections, redirects, and one retry of a request if the server had closed its connection before.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, RANGE, USER_AGENT};
use http::{HeaderMap, HeaderValue, StatusCode};
use tinkers_core::nesting::NestedMark;
use tinkers_core::{
    BaseUrl, BoxFuture, Clock, HttpRequest, HttpResponse, RecoveredError, RecoveredErrors,
    RouteClass, Sent, Spawn, Transport, TransportError, TransportErrorKind,
};
use tokio::sync::{oneshot, watch};
use tracing::{Instrument, Span, field};

use crate::credential::TrustedHeaders;
use crate::dialer::{DialTimeout, Dialer};
use crate::errors;
use crate::exchange::{ExchangeError, OutgoingRequest, RequestLimits, exchange};
use crate::io_runtime::IoRuntime;
use crate::pool::{ClassConnectionLimits, ClassConnectionStats, Pool, PoolContext};
use crate::proxy::ProxyConfig;
use crate::redirect::{self, MAX_HOPS};
use crate::response_body;
use crate::target::{OriginParts, Target};
use crate::tls::{HttpVersions, Tls};

/// An HTTP client for one base URL. Clones are cheap and share the connections. The connections are closed when the last clone is dropped.
///
/// [`send`](Transport::send) may be awaited on any executor. On the transport's own runtime, the request runs in the calling task.
/// Elsewhere it runs in a task of that runtime, and proceeds while the caller's executor is blocked. Dropping the future cancels the
/// request: it resets the HTTP/2 stream, or closes the HTTP/1.1 connection.
#[derive(Clone)]
pub struct HttpTransport {
    inner: Arc<Inner>,
}

struct Inner {
    base: BaseUrl,
    origin_parts: Arc<OriginParts>,
    trusted_headers: TrustedHeaders,
    user_agent: HeaderValue,
    context: Arc<PoolContext>,
    pool: Pool,
    close_state: watch::Sender<CloseState>,
}

/// The close state of a transport: whether it is closed, and the number of its requests in flight. When it is closed and no request is in
/// flight, its connections are closed.
#[derive(Debug, Default)]
struct CloseState {
    closed: bool,
    in_flight: usize,
}

impl CloseState {
    fn is_finished(&self) -> bool {
        self.closed && self.in_flight == 0
    }
}

/// The validated settings from which the builder creates a transport.
pub(crate) struct TransportParts {
    pub(crate) base: BaseUrl,
    pub(crate) origin_parts: Arc<OriginParts>,
    pub(crate) trusted_headers: TrustedHeaders,
    pub(crate) user_agent: HeaderValue,
    pub(crate) tls: Tls,
    pub(crate) proxy: ProxyConfig,
    pub(crate) versions: HttpVersions,
    pub(crate) class_limits: [ClassConnectionLimits; RouteClass::ALL.len()],
    pub(crate) runtime: IoRuntime,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) recovered_errors: Arc<RecoveredErrors>,
}

impl HttpTransport {
    pub(crate) fn from_parts(parts: TransportParts) -> Self {
        let context = Arc::new(PoolContext {
            dialer: Dialer::new(parts.tls, parts.proxy, parts.versions),
            origin: parts.base.origin().clone(),
            runtime: parts.runtime,
            clock: parts.clock,
            recovered_errors: parts.recovered_errors,
        });
        let pool = Pool::new(&context, &parts.class_limits);
        Self {
            inner: Arc::new(Inner {
                base: parts.base,
                origin_parts: parts.origin_parts,
                trusted_headers: parts.trusted_headers,
                user_agent: parts.user_agent,
                context,
                pool,
                close_state: watch::Sender::default(),
            }),
        }
    }

    /// Returns the base URL to which requests are sent, in normalised form.
    pub fn base_url(&self) -> &BaseUrl {
        &self.inner.base
    }

    /// Returns the current numbers of connections and requests of one route class.
    pub fn stats(&self, class: RouteClass) -> ClassConnectionStats {
        self.inner.pool.class(class).stats()
    }

    /// Sends a request in the calling task. The task must run on the transport's runtime. A panic becomes an error, as in
    /// [`send_in_task`](Self::send_in_task).
    async fn send_here(&self, mut request: HttpRequest) -> Result<HttpResponse, TransportError> {
        let in_flight = InFlightGuard::start(&self.inner)?;
        let span = span(&request);
        let mut work = pin!(in_flight.0.run(&mut request));
        std::future::poll_fn(|cx| {
            // Log subscribers and callbacks of the limiter run here. A call that they make is not nested in this request: it may wait.
            let poll = || NestedMark::OUTSIDE.during(|| span.in_scope(|| work.as_mut().poll(cx)));
            let polled = catch_unwind(AssertUnwindSafe(poll));
            // The panic hook has reported the panic.
            let aborted = || errors::aborted(&self.inner.context.origin, Sent::MaybeSent);
            polled.unwrap_or_else(|_| Poll::Ready(Err(aborted())))
        })
        .await
    }

    /// Sends a request in a task of the transport's runtime, for callers that run on another executor or without an executor.
    async fn send_in_task(&self, mut request: HttpRequest) -> Result<HttpResponse, TransportError> {
        let in_flight = InFlightGuard::start(&self.inner)?;
        let has_started = Arc::new(AtomicBool::new(false));
        let (result, received) = oneshot::channel();
        let span = span(&request);
        let started = Arc::clone(&has_started);
        let work = async move {
            started.store(true, Ordering::Release);
            let outcome = in_flight.0.run(&mut request).await;
            // Sent before the request stops to count as in flight. The receiver may be gone.
            let _ = result.send(outcome);
        };
        let context = &self.inner.context;
        let task = context.runtime.spawn(Box::pin(work.instrument(span)));
        match received.await {
            Ok(outcome) => {
                task.detach();
                outcome
            }
            Err(_) => {
                let sent = if has_started.load(Ordering::Acquire) {
                    Sent::MaybeSent
                } else {
                    Sent::NotSent
                };
                Err(errors::aborted(&context.origin, sent))
            }
        }
    }

    /// Closes the transport: later requests fail with `Closed`, and the connections are closed when the requests in flight are done.
    /// Closing a closed transport does nothing.
    pub fn close(&self) {
        self.inner.change(|close_state| close_state.closed = true);
    }

    /// Waits until the transport is [closed](Self::close) and no request is in flight. Cancel-safe.
    pub async fn closed(&self) {
        let mut close_state = self.inner.close_state.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        let _ = close_state.wait_for(CloseState::is_finished).await;
    }
}

impl Transport for HttpTransport {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        if self.inner.context.runtime.is_current() {
            Box::pin(self.send_here(request))
        } else {
            Box::pin(self.send_in_task(request))
        }
    }
}

impl fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpTransport")
            .field("base_url", &self.inner.base)
            .finish_non_exhaustive()
    }
}

/// Returns the tracing span of a request. The span does not contain the query of the URL, since a query may contain a secret.
fn span(request: &HttpRequest) -> Span {
    tracing::debug_span!(
        "http",
        method = %request.method,
        path = request.path.split('?').next().unwrap_or_default(),
        class = request.class.name(),
        status = field::Empty,
        connection = field::Empty,
    )
}

/// A guard that counts one request as in flight until the guard is dropped.
struct InFlightGuard(Arc<Inner>);

impl InFlightGuard {
    fn start(inner: &Arc<Inner>) -> Result<Self, TransportError> {
        let mut open = false;
        // No waiter is interested in an additional request.
        inner.close_state.send_if_modified(|close_state| {
            open = !close_state.closed;
            close_state.in_flight += usize::from(open);
            false
        });
        if open {
            Ok(Self(Arc::clone(inner)))
        } else {
            Err(errors::closed())
        }
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.change(|close_state| close_state.in_flight -= 1);
    }
}

impl Inner {
    /// Changes the close state: whether the transport is closed, or the number of its requests in flight. If it is then closed and no
    /// request is in flight, closes the connections and wakes the tasks that wait in [`HttpTransport::closed`]. Other changes wake no
    /// tasks, since they are frequent: each request causes two.
    fn change(&self, change: impl FnOnce(&mut CloseState)) {
        let is_finished = self.close_state.send_if_modified(|close_state| {
            change(close_state);
            close_state.is_finished()
        });
        if is_finished {
            self.pool.close();
        }
    }

    async fn run(&self, request: &mut HttpRequest) -> Result<HttpResponse, TransportError> {
        let started = self.context.clock.now();
        let limits = RequestLimits {
            timeouts: request.timeouts,
            total_at: started.after(request.timeouts.total),
            max_bytes: request.max_response_bytes,
        };
        self.trusted_headers.learn(&request.headers);
        let mut outcome = self.follow(request, &limits).await;
        self.trusted_headers.redactor().redact(&mut outcome);
        let elapsed = || self.context.clock.now().since(started);
        match &outcome {
            Ok(response) => {
                Span::current().record("status", response.status.as_u16());
                tracing::debug!(elapsed = ?elapsed(), bytes = response.body.len(), "response received");
            }
            Err(error) => {
                tracing::debug!(elapsed = ?elapsed(), kind = ?error.kind, sent = ?error.sent, %error, "request failed")
            }
        }
        outcome
    }

    async fn follow(
        &self,
        request: &mut HttpRequest,
        limits: &RequestLimits,
    ) -> Result<HttpResponse, TransportError> {
        let path = Bytes::from(std::mem::take(&mut request.path));
        let target = Target::below(&self.origin_parts, self.base.prefix(), path.clone());
        let mut outgoing = OutgoingRequest {
            target: target.ok_or_else(|| {
                errors::invalid(format!(
                    "the path {:?} is not valid: it must start with / and fit into a URL",
                    String::from_utf8_lossy(&path)
                ))
            })?,
            method: &request.method,
            headers: &request.headers,
            is_trusted: true,
            body: &request.body,
            departure: &request.departure,
        };
        for _ in 0..=MAX_HOPS {
            let response = if outgoing.is_trusted {
                self.send_pooled(&outgoing, request.class, limits).await?
            } else {
                // Boxed, since it is rare and its future is large.
                Box::pin(self.send_foreign(&outgoing, limits)).await?
            };
            let Some(target) = redirect::next(&outgoing, &response)? else {
                return Ok(response);
            };
            tracing::debug!(status = response.status.as_u16(), to = %self.trusted_headers.redactor().text(&target.origin().to_string()), "redirected");
            // A request that has left the origin is not trusted again, even if it is redirected back.
            outgoing.is_trusted &= target.origin() == outgoing.target.origin();
            outgoing.target = target;
        }
        Err(redirect::too_many(&outgoing))
    }

    /// Builds the headers of a request, except those that depend on the connection, such as `Host`. The headers of the request and the
    /// headers for the origin of the base URL are complete only if the request goes there.
    fn headers(&self, outgoing: &OutgoingRequest<'_>) -> HeaderMap {
        let room = outgoing.headers.len() + self.trusted_headers.len() + COMMON_HEADERS;
        let mut headers = HeaderMap::with_capacity(room);
        for (name, value) in outgoing.headers {
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
            .or_insert(HeaderValue::from_static(response_body::ACCEPT_ENCODING));
        if outgoing.is_trusted {
            self.trusted_headers.add_to(&mut headers);
            headers
        } else {
            foreign_headers(&headers)
        }
    }

    /// Sends a request on a connection of the pool. If the server had closed a reused connection before it processed the request, sends the
    /// request once more on another connection.
    async fn send_pooled(
        &self,
        outgoing: &OutgoingRequest<'_>,
        class: RouteClass,
        limits: &RequestLimits,
    ) -> Result<HttpResponse, TransportError> {
        let class_pool = self.pool.class(class);
        let mut retried = false;
        loop {
            let mut lease = class_pool.acquire(limits).await?;
            Span::current().record("connection", lease.id());
            let reused = lease.is_reused();
            let Some(connection) = lease.connection() else {
                continue;
            };
            match exchange(
                connection,
                outgoing,
                self.headers(outgoing),
                limits,
                &self.context.clock,
            )
            .await
            {
                // Some servers silently close an HTTP/1.1 connection after an internal error. The outcome of a request sent on it
                // would be unknown, so it is not reused. An HTTP/2 connection is.
                Ok(response) if response.status == StatusCode::INTERNAL_SERVER_ERROR => {
                    drop(lease);
                    return Ok(response);
                }
                Ok(response) => {
                    lease.finish();
                    return Ok(response);
                }
                Err(ExchangeError {
                    is_unprocessed: true,
                    error,
                }) if reused && !retried => {
                    retried = true;
                    drop(lease);
                    class_pool.close_idle();
                    self.context
                        .recovered_errors
                        .count(RecoveredError::Connection);
                    tracing::debug!(recovered_error = RecoveredError::Connection.name(), %error, "sending the request again on another connection");
                }
                Err(ExchangeError { error, .. }) => {
                    if error.kind == TransportErrorKind::Held {
                        lease.return_unused();
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Sends a request to another origin to which a response redirects, on a new connection that carries only this request.
    async fn send_foreign(
        &self,
        outgoing: &OutgoingRequest<'_>,
        limits: &RequestLimits,
    ) -> Result<HttpResponse, TransportError> {
        let PoolContext { runtime, clock, .. } = &*self.context;
        let origin = outgoing.target.origin();
        let left = limits.total_at.since(clock.now());
        let connect = limits.timeouts.connect.min(left);
        let (context, to) = (Arc::clone(&self.context), origin.clone());
        // In a task, since sockets can only be opened in the context of the runtime.
        let dial = async move {
            let limit = DialTimeout::new(connect, &*context.clock);
            context.dialer.dial_foreign(&to, limit).await
        };
        let new = runtime.run(dial.in_current_span()).await;
        let new = new.unwrap_or_else(|| Err(errors::not_opened(origin)))?;
        let mut connection = new.connection;
        // Ends when `connection` is dropped.
        let driver = new.driver;
        runtime.launch(async move { drop(driver.await) });
        exchange(
            &mut connection,
            outgoing,
            self.headers(outgoing),
            limits,
            clock,
        )
        .await
        .map_err(|failed| failed.error)
    }
}

/// The number of headers that all requests have: `User-Agent`, `Accept`, `Accept-Encoding` and `Host`.
const COMMON_HEADERS: usize = 4;

/// Returns the part of `headers` that may be sent to an origin other than that of the base URL, which is not trusted with secrets.
fn foreign_headers(headers: &HeaderMap) -> HeaderMap {
    let mut allowed = HeaderMap::new();
    for name in [ACCEPT, ACCEPT_ENCODING, USER_AGENT, RANGE] {
        if let Some(value) = headers.get(&name) {
            allowed.insert(name, value.clone());
        }
    }
    allowed
}
