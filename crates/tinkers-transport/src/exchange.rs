//! One request and its response on one connection, within the time limits.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tinkers_core::{
    Clock, DepartureCheck, HttpResponse, Origin, Sent, Timeouts, Timestamp, TransportError,
};

use crate::connection::Connection;
use crate::errors;
use crate::response_body::BodyCollector;
use crate::target::Target;
use crate::upload_body::{UploadBody, UploadProgress};

/// A request to be sent, possibly again on another connection or to the target of a redirect.
pub(crate) struct OutgoingRequest<'a> {
    pub(crate) target: Target,
    pub(crate) method: &'a Method,
    /// The headers that the caller has set, without the headers that the transport adds, such as the API key.
    pub(crate) headers: &'a HeaderMap,
    /// Whether all redirects so far led to the origin of the base URL. Only then may the request carry the API key and the other headers
    /// for that origin.
    pub(crate) is_trusted: bool,
    pub(crate) body: &'a Bytes,
    /// The rate limiter's final check, made immediately before the request is written, of whether the request may still be sent. The status
    /// and headers of the response are reported to it, so that the limiter reacts to a 429 at once.
    pub(crate) departure: &'a DepartureCheck,
}

/// The timeouts of a request, and the maximum size of its response. The total timeout covers all redirects and a repetition on another
/// connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestLimits {
    pub(crate) timeouts: Timeouts,
    pub(crate) total_at: Timestamp,
    pub(crate) max_bytes: usize,
}

/// The error of a request for which no complete response arrived.
pub(crate) struct ExchangeError {
    pub(crate) error: TransportError,
    /// Whether the server has certainly not processed the request, according to hyper or the server. Such a request may be sent again
    /// without the risk of applying it twice.
    pub(crate) is_unprocessed: bool,
}

impl From<TransportError> for ExchangeError {
    fn from(error: TransportError) -> Self {
        Self {
            error,
            is_unprocessed: false,
        }
    }
}

/// Sends a request with `headers` on `connection` and reads the whole response.
///
/// When the connection is ready for the request, the rate limiter is asked again whether the request may be sent. If not, the error is
/// `Held`, and the connection can be used for another request. Dropping the future resets the HTTP/2 stream, or closes the HTTP/1.1
/// connection.
pub(crate) async fn exchange(
    connection: &mut Connection,
    outgoing: &OutgoingRequest<'_>,
    headers: HeaderMap,
    limits: &RequestLimits,
    clock: &Arc<dyn Clock>,
) -> Result<HttpResponse, ExchangeError> {
    let origin = outgoing.target.origin();
    match clock.deadline(limits.total_at, connection.ready()).await {
        Some(Ok(())) => {}
        Some(Err(error)) => return Err(unsent(origin, connection, error)),
        None => {
            let limit = limits.timeouts.total;
            return Err(errors::timed_out(origin, "total", limit, Sent::NotSent).into());
        }
    }
    let now = clock.now();
    let progress = UploadProgress::new(Arc::clone(clock), now);
    let upload = UploadBody::new(outgoing.body.clone(), Arc::clone(&progress));
    let request = connection.request(&outgoing.target, outgoing.method.clone(), headers, upload)?;
    let head = ResponseHead {
        origin,
        progress: &progress,
        limits,
        clock: &**clock,
    };
    // The last check: from here to the handover of the request nothing waits.
    if !outgoing.departure.may_leave() {
        return Err(errors::held(origin).into());
    }
    // Handed over outside of the awaited futures, which would otherwise hold the request.
    let response = match connection {
        Connection::Http1 { sender, .. } => {
            head.wait(now, pin!(sender.try_send_request(request))).await
        }
        Connection::Http2 { sender, .. } => {
            head.wait(now, pin!(sender.try_send_request(request))).await
        }
    };
    let response = response?.map_err(|error| failed(origin, connection, error))?;
    // Not after the body, which may be slow.
    outgoing
        .departure
        .head(response.status(), response.headers(), clock.wall());
    let is_head = *outgoing.method == Method::HEAD;
    Ok(body(response, origin, is_head, limits, &**clock).await?)
}

/// The result of sending a request: the status and headers of the response, or an error. If no byte of the request was written, the error
/// contains the request, so that it can be sent again.
type HeadResult = Result<Response<Incoming>, TrySendError<Request<UploadBody>>>;
type Sending<'a> = Pin<&'a mut (dyn Future<Output = HeadResult> + Send)>;

/// The parameters of the wait for the status and headers of a response. The wait ends early if the request times out.
struct ResponseHead<'a> {
    origin: &'a Origin,
    progress: &'a UploadProgress,
    limits: &'a RequestLimits,
    clock: &'a dyn Clock,
}

impl ResponseHead<'_> {
    async fn wait(
        &self,
        mut now: Timestamp,
        mut sending: Sending<'_>,
    ) -> Result<HeadResult, TransportError> {
        // The end of the upload changes the limit without a notification, so the limit is checked again before it could have passed.
        let timeouts = &self.limits.timeouts;
        let shortest = timeouts.idle.min(timeouts.first_byte);
        loop {
            let (phase, limit, at) = phase(self.progress, self.limits);
            if at <= now {
                let late = errors::timed_out(self.origin, phase, limit, Sent::MaybeSent);
                return Err(late);
            }
            let at = at.min(now.after(shortest));
            match self.clock.deadline(at, sending.as_mut()).await {
                None => now = self.clock.now(),
                Some(result) => return Ok(result),
            }
        }
    }
}

fn failed(
    origin: &Origin,
    connection: &Connection,
    mut error: TrySendError<Request<UploadBody>>,
) -> ExchangeError {
    let is_unsent = error.take_message().is_some();
    let error = error.into_error();
    if is_unsent || errors::is_unprocessed(&error) {
        return unsent(origin, connection, error);
    }
    ExchangeError {
        error: broken(origin, connection, Sent::MaybeSent, error),
        is_unprocessed: false,
    }
}

/// Returns the error for a request that was not sent because its connection ended before it accepted the request.
fn unsent(origin: &Origin, connection: &Connection, error: hyper::Error) -> ExchangeError {
    ExchangeError {
        error: broken(origin, connection, Sent::NotSent, error),
        is_unprocessed: true,
    }
}

fn broken(
    origin: &Origin,
    connection: &Connection,
    sent: Sent,
    error: hyper::Error,
) -> TransportError {
    match connection.foreign_protocol() {
        Some(protocol) => errors::not_http1(
            &connection.peer(origin),
            protocol,
            origin.scheme(),
            sent,
            error,
        ),
        None => errors::broken(origin, sent, error),
    }
}

/// Returns the timeout that applies to the wait for the status and headers of the response: its name, its length, and the time at which it
/// passes. The timeout is `idle` during the upload and `first_byte` after the upload, or `total` if that timeout passes earlier.
fn phase(progress: &UploadProgress, limits: &RequestLimits) -> (&'static str, Duration, Timestamp) {
    let (last, done) = progress.state();
    let (phase, limit) = if done {
        ("first_byte", limits.timeouts.first_byte)
    } else {
        ("idle", limits.timeouts.idle)
    };
    let at = last.after(limit);
    if at < limits.total_at {
        (phase, limit, at)
    } else {
        ("total", limits.timeouts.total, limits.total_at)
    }
}

async fn body(
    response: Response<Incoming>,
    origin: &Origin,
    is_head: bool,
    limits: &RequestLimits,
    clock: &dyn Clock,
) -> Result<HttpResponse, TransportError> {
    let (mut parts, incoming) = response.into_parts();
    // The response to HEAD has the length of the response to GET, and no body.
    let most = if is_head {
        usize::MAX
    } else {
        limits.max_bytes
    };
    let collector = BodyCollector::new(&mut parts.headers, most);
    let body = match collector {
        Ok(collector) => collect(incoming, collector, origin, limits, clock).await,
        Err(error) => Err(error),
    };
    let body = match body {
        // The head alone says that the request was refused. An error would mean that the request may have been applied.
        Err(error) if parts.status == StatusCode::TOO_MANY_REQUESTS => {
            tracing::debug!(%error, "cannot read the body of a rate-limited response");
            Bytes::new()
        }
        body => body?,
    };
    Ok(HttpResponse {
        status: parts.status,
        headers: parts.headers,
        body,
    })
}

/// Reads a whole response body into `collector`. The read fails if the next chunk does not arrive within the `idle` timeout, or if the
/// total timeout passes.
async fn collect(
    mut incoming: Incoming,
    mut collector: BodyCollector,
    origin: &Origin,
    limits: &RequestLimits,
    clock: &dyn Clock,
) -> Result<Bytes, TransportError> {
    loop {
        let (at, phase, limit) = chunk_limit(clock.now(), limits);
        let frame = clock.deadline(at, incoming.frame()).await;
        let frame =
            frame.ok_or_else(|| errors::timed_out(origin, phase, limit, Sent::MaybeSent))?;
        match frame {
            None => return collector.finish(),
            Some(Err(error)) => return Err(errors::broken(origin, Sent::MaybeSent, error)),
            // The API does not use trailers.
            Some(Ok(frame)) => {
                if let Ok(chunk) = frame.into_data() {
                    collector.push(chunk)?;
                }
            }
        }
    }
}

/// Returns the timeout of the next chunk of the response body: the time at which it passes, its name, and its length.
fn chunk_limit(now: Timestamp, limits: &RequestLimits) -> (Timestamp, &'static str, Duration) {
    let idle_at = now.after(limits.timeouts.idle);
    if idle_at < limits.total_at {
        (idle_at, "idle", limits.timeouts.idle)
    } else {
        (limits.total_at, "total", limits.timeouts.total)
    }
}
