//! One request and its answer on one connection, within its time limits.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tinkers_core::{HttpResponse, Moment, Sent, Time, Timeouts, TransportError};

use crate::decode::Collector;
use crate::failure;
use crate::link::Link;
use crate::target::Target;
use crate::upload::{Meter, Upload};

/// One message to send, which may be sent again on another connection.
#[derive(Clone)]
pub(crate) struct Message {
    pub(crate) target: Target,
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// The limits of the whole operation, all hops and attempts included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) timeouts: Timeouts,
    pub(crate) total_at: Moment,
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

/// Sends `message` on `link` and reads the whole answer. Dropping the future resets the stream or closes the connection.
pub(crate) async fn exchange(
    link: &mut Link,
    message: &Message,
    limits: &Limits,
    time: &Arc<dyn Time>,
) -> Result<HttpResponse, Failed> {
    let response = head(link, message, limits, time).await?;
    Ok(body(response, message, limits, time).await?)
}

async fn head(
    link: &mut Link,
    message: &Message,
    limits: &Limits,
    time: &Arc<dyn Time>,
) -> Result<Response<Incoming>, Failed> {
    let origin = &message.target.origin;
    let meter = Meter::new(Arc::clone(time));
    let upload = Upload::new(message.body.clone(), Arc::clone(&meter));
    let request = link.request(
        &message.target,
        message.method.clone(),
        message.headers.clone(),
        upload,
    )?;
    let mut sending = pin!(link.send(request));
    loop {
        let now = time.now();
        let (phase, limit, at) = phase(&meter, limits);
        if at <= now {
            return Err(failure::timed_out(origin, phase, limit, Sent::MaybeSent).into());
        }
        // The end of the upload moves the limit without a word, so look again before it could have passed.
        let shortest = limits.timeouts.idle.min(limits.timeouts.first_byte);
        match time
            .deadline(at.min(now.after(shortest)), sending.as_mut())
            .await
        {
            None => {}
            Some(Ok(response)) => return Ok(response),
            Some(Err(mut error)) => {
                let kept = error.take_message().is_some();
                let error = error.into_error();
                let unprocessed = kept || failure::is_unprocessed(&error);
                let sent = if unprocessed {
                    Sent::NotSent
                } else {
                    Sent::MaybeSent
                };
                return Err(Failed {
                    error: failure::broken(origin, sent, error),
                    unprocessed,
                });
            }
        }
    }
}

/// The limit in force: idle while the upload moves, first byte once it is handed over, and the total over all.
fn phase(meter: &Meter, limits: &Limits) -> (&'static str, Duration, Moment) {
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
    message: &Message,
    limits: &Limits,
    time: &Arc<dyn Time>,
) -> Result<HttpResponse, TransportError> {
    let origin = &message.target.origin;
    let (mut parts, mut incoming) = response.into_parts();
    // The length that the answer to HEAD names is another answer's.
    let limit = if message.method == Method::HEAD {
        usize::MAX
    } else {
        limits.max_bytes
    };
    let mut collector = Collector::new(&mut parts.headers, limit)?;
    loop {
        let idle_at = time.now().after(limits.timeouts.idle);
        let (at, phase, limit) = if idle_at < limits.total_at {
            (idle_at, "idle", limits.timeouts.idle)
        } else {
            (limits.total_at, "total", limits.timeouts.total)
        };
        match time.deadline(at, incoming.frame()).await {
            None => return Err(failure::timed_out(origin, phase, limit, Sent::MaybeSent)),
            Some(None) => break,
            Some(Some(Err(error))) => return Err(failure::broken(origin, Sent::MaybeSent, error)),
            Some(Some(Ok(frame))) => {
                // Trailers say nothing in this API.
                if let Ok(piece) = frame.into_data() {
                    collector.push(piece)?;
                }
            }
        }
    }
    Ok(HttpResponse {
        status: parts.status,
        headers: parts.headers,
        body: collector.finish()?,
    })
}
