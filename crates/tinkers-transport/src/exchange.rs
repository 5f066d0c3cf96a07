//! One request and its answer on one connection, within its time limits.

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
    Clock, Departure, HttpResponse, Origin, Sent, Timeouts, Timestamp, TransportError,
};

use crate::decode::Collector;
use crate::failure;
use crate::link::Link;
use crate::target::Target;
use crate::upload::{Meter, Upload};

/// One message to send, which may be sent again on another connection or to another place.
pub(crate) struct Message<'a> {
    pub(crate) target: Target,
    pub(crate) method: &'a Method,
    /// The headers that the request set itself.
    pub(crate) given: &'a HeaderMap,
    /// Whether it goes where the base URL leads, by the base URL's own word.
    pub(crate) trusted: bool,
    pub(crate) body: &'a Bytes,
    /// Whether it may leave, and who hears of a refusal.
    pub(crate) departure: &'a Departure,
}

/// The limits of the whole operation, all hops and attempts included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) timeouts: Timeouts,
    pub(crate) total_at: Timestamp,
    pub(crate) max_bytes: usize,
}

/// Why there is no answer.
pub(crate) struct Failed {
    pub(crate) error: TransportError,
    /// The server did nothing with it, by hyper's or the server's own word: another connection may carry it.
    pub(crate) unprocessed: bool,
}

impl From<TransportError> for Failed {
    fn from(error: TransportError) -> Self {
        Self {
            error,
            unprocessed: false,
        }
    }
}

/// Sends `message` with `headers` on `link` and reads the whole answer. Dropping the future resets the stream or closes the
/// connection.
///
/// The rate limit is asked once more when the connection is ready to write the request. Where it says no, the error is of kind
/// `Held`, and the connection is as it was.
pub(crate) async fn exchange(
    link: &mut Link,
    message: &Message<'_>,
    headers: HeaderMap,
    limits: &Limits,
    time: &Arc<dyn Clock>,
) -> Result<HttpResponse, Failed> {
    let origin = message.target.origin();
    match time.deadline(limits.total_at, link.ready()).await {
        Some(Ok(())) => {}
        Some(Err(error)) => return Err(unsent(origin, link, error)),
        None => {
            let limit = limits.timeouts.total;
            return Err(failure::timed_out(origin, "total", limit, Sent::NotSent).into());
        }
    }
    let now = time.now();
    let meter = Meter::new(Arc::clone(time), now);
    let upload = Upload::new(message.body.clone(), Arc::clone(&meter));
    let request = link.request(&message.target, message.method.clone(), headers, upload)?;
    let head = Head {
        origin,
        meter: &meter,
        limits,
        time: &**time,
    };
    // The last look: nothing below waits before the request is with the connection.
    if !message.departure.may_leave() {
        return Err(failure::held(origin).into());
    }
    // The request is handed over in these calls and not in what is awaited, so that it takes up no room while it is.
    let response = match link {
        Link::Single { sender, .. } => head.wait(now, pin!(sender.try_send_request(request))).await,
        Link::Shared { sender, .. } => head.wait(now, pin!(sender.try_send_request(request))).await,
    };
    let response = response?.map_err(|error| failed(origin, link, error))?;
    // Before the body, which may be slow.
    message
        .departure
        .head(response.status(), response.headers(), time.wall());
    let is_head = *message.method == Method::HEAD;
    Ok(body(response, origin, is_head, limits, &**time).await?)
}

/// An answer's head, or the request when not a byte of it was written.
type Answer = Result<Response<Incoming>, TrySendError<Request<Upload>>>;
type Sending<'a> = Pin<&'a mut (dyn Future<Output = Answer> + Send)>;

/// The wait for the head of an answer.
struct Head<'a> {
    origin: &'a Origin,
    meter: &'a Meter,
    limits: &'a Limits,
    time: &'a dyn Clock,
}

impl Head<'_> {
    async fn wait(
        &self,
        mut now: Timestamp,
        mut sending: Sending<'_>,
    ) -> Result<Answer, TransportError> {
        // The end of the upload moves the limit without a word, so look again before it could have passed.
        let timeouts = &self.limits.timeouts;
        let shortest = timeouts.idle.min(timeouts.first_byte);
        loop {
            let (phase, limit, at) = phase(self.meter, self.limits);
            if at <= now {
                let late = failure::timed_out(self.origin, phase, limit, Sent::MaybeSent);
                return Err(late);
            }
            let at = at.min(now.after(shortest));
            match self.time.deadline(at, sending.as_mut()).await {
                None => now = self.time.now(),
                Some(answer) => return Ok(answer),
            }
        }
    }
}

fn failed(origin: &Origin, link: &Link, mut error: TrySendError<Request<Upload>>) -> Failed {
    let kept = error.take_message().is_some();
    let error = error.into_error();
    if kept || failure::is_unprocessed(&error) {
        return unsent(origin, link, error);
    }
    Failed {
        error: broken(origin, link, Sent::MaybeSent, error),
        unprocessed: false,
    }
}

/// The connection ended before it took the request.
fn unsent(origin: &Origin, link: &Link, error: hyper::Error) -> Failed {
    Failed {
        error: broken(origin, link, Sent::NotSent, error),
        unprocessed: true,
    }
}

fn broken(origin: &Origin, link: &Link, sent: Sent, error: hyper::Error) -> TransportError {
    match link.foreign_protocol() {
        Some(protocol) => {
            failure::not_http1(&link.peer(origin), protocol, origin.scheme(), sent, error)
        }
        None => failure::broken(origin, sent, error),
    }
}

/// The limit in force: idle while the upload moves, first byte once it is handed over, and the total over all.
fn phase(meter: &Meter, limits: &Limits) -> (&'static str, Duration, Timestamp) {
    let (last, done) = meter.state();
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
    limits: &Limits,
    time: &dyn Clock,
) -> Result<HttpResponse, TransportError> {
    let (mut parts, incoming) = response.into_parts();
    // The length that the answer to HEAD names is another answer's.
    let most = if is_head {
        usize::MAX
    } else {
        limits.max_bytes
    };
    let collector = Collector::new(&mut parts.headers, most);
    let body = match collector {
        Ok(collector) => collect(incoming, collector, origin, limits, time).await,
        Err(error) => Err(error),
    };
    let body = match body {
        // The head has refused the request, and nothing in the body takes that back. As an error this would mean that the
        // request may have been applied.
        Err(error) if parts.status == StatusCode::TOO_MANY_REQUESTS => {
            tracing::debug!(%error, "cannot read the body of a refusal; its head counts");
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

/// Reads a whole body into `collector`, with a time limit on each piece.
async fn collect(
    mut incoming: Incoming,
    mut collector: Collector,
    origin: &Origin,
    limits: &Limits,
    time: &dyn Clock,
) -> Result<Bytes, TransportError> {
    loop {
        let (at, phase, limit) = idle(time.now(), limits);
        let frame = time.deadline(at, incoming.frame()).await;
        let frame =
            frame.ok_or_else(|| failure::timed_out(origin, phase, limit, Sent::MaybeSent))?;
        match frame {
            None => return collector.finish(),
            Some(Err(error)) => return Err(failure::broken(origin, Sent::MaybeSent, error)),
            // Trailers say nothing in this API.
            Some(Ok(frame)) => {
                if let Ok(piece) = frame.into_data() {
                    collector.push(piece)?;
                }
            }
        }
    }
}

/// The limit of a piece of the answer that is waited for from `now`.
fn idle(now: Timestamp, limits: &Limits) -> (Timestamp, &'static str, Duration) {
    let idle_at = now.after(limits.timeouts.idle);
    if idle_at < limits.total_at {
        (idle_at, "idle", limits.timeouts.idle)
    } else {
        (limits.total_at, "total", limits.timeouts.total)
    }
}
