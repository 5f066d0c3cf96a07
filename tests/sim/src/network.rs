//! The network between the clients and the server, which loses, delays, doubles and spoils what it carries.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};
use tinkers_core::{
    BoxFuture, Departure, HttpRequest, HttpResponse, ManualClock, RouteClass, Sent, Spawn, Time,
    Transport, TransportError, TransportErrorKind, hint,
};
use tinkers_local::InProcess;

use crate::chance::Chance;
use crate::control::Control;
use crate::fault::Kind;
use crate::misfortune::Misfortune;
use crate::old_limiter::OldLimiter;
use crate::op::{Op, model_of};
use crate::trace::{Hash, Trace};
use crate::waits::Waits;
use crate::watch::{Beat, Rule, Watch};

type Answer = Result<HttpResponse, TransportError>;

/// What all ways to the server share.
#[derive(Debug)]
pub struct Network {
    /// Time.
    pub clock: ManualClock,
    /// Chance.
    pub chance: Chance,
    /// What goes wrong.
    pub misfortune: Arc<Misfortune>,
    /// Where it is written down.
    pub trace: Trace,
    /// What is promised.
    pub watch: Watch,
    /// What became of those that wait.
    pub waits: Waits,
    /// What a faulty client keeps in place of its limiter.
    pub old_limiter: Arc<OldLimiter>,
    /// The server.
    pub server: InProcess,
    /// What arrives though its sender has gone.
    pub spawn: Arc<dyn Spawn>,
    /// Whether the server applies a repeated number once, as far as clients are told.
    pub deduplicates: bool,
    /// The fault of the clients that is to be found, if any.
    pub control: Option<Control>,
    /// How many requests there were.
    pub count: AtomicU64,
}

/// One client's way to the server.
#[derive(Debug, Clone)]
pub struct Way {
    /// The network.
    pub network: Arc<Network>,
    /// Whose way it is.
    pub client: usize,
    /// Whether only heartbeats go this way.
    pub is_heart: bool,
    /// Whether the program has closed the session.
    pub is_closed: Arc<AtomicBool>,
}

impl Transport for Way {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Answer> {
        Box::pin(self.exchange(request))
    }
}

/// A poll under way, which ends however it ends.
struct PollUnderWay<'a>(&'a Watch, String);

impl Drop for PollUnderWay<'_> {
    fn drop(&mut self) {
        self.0.poll_ends();
    }
}

impl Way {
    async fn exchange(&self, mut request: HttpRequest) -> Answer {
        let network = &*self.network;
        let (op, class) = (Op::of_request(&request), request.class);
        let number = network.count.fetch_add(1, Ordering::Relaxed);
        let what = format!("request {number} of client {} ({})", self.client, op.name());
        let struck = network.misfortune.strike(op, self.client, self.is_heart);
        if let Some(kind) = struck {
            network.misfortune.met(kind, op);
        }
        let name = struck.map_or("-", Kind::name);
        network.trace.note(format_args!("{what}: {name}"));
        if struck == Some(Kind::LayerPanics) {
            // Without the hook, which would print it.
            std::panic::resume_unwind(Box::new("the caller's layer panicked"));
        }
        let departure = std::mem::take(&mut request.departure);
        if struck == Some(Kind::Dial) {
            network.dial(request.timeouts.total).await?;
        }
        if !departure.may_leave() {
            network.misfortune.held(op);
            network.trace.note(format_args!("{what} is held back"));
            return Err(TransportError::new(
                TransportErrorKind::Held,
                Sent::NotSent,
                "the gate closed while it waited for a connection",
            ));
        }
        if op.is_submission() && self.is_closed.load(Ordering::Relaxed) {
            let what = format!("{what} left after its session was closed");
            network.watch.report(Rule::Closed, what);
        }
        let left_at = network.clock.now();
        network.watch.leaves(class, left_at, &what);
        let sample = match op {
            Op::Sample => network.waits.leaves(&request, left_at),
            _ => None,
        };
        let model = (op.is_submission() && class == RouteClass::Train)
            .then(|| model_of(&request))
            .flatten();
        let asked_at = network.old_limiter.asked_at();
        let poll = (op == Op::Poll).then(|| {
            let id = text_of(&request.body, "request_id");
            network.watch.poll_leaves(&id, network.clock.now());
            PollUnderWay(&network.watch, id)
        });
        let session = self.is_heart.then(|| text_of(&request.body, "session_id"));
        let time: &dyn Time = &network.clock;
        let limit = request.timeouts.first_byte.min(request.timeouts.total);
        let longest_body = request.timeouts.total;
        let carried = network.carry(op, struck, request);
        let mut answer = match time.deadline(time.now().after(limit), carried).await {
            Some(answer) => answer,
            None => Err(lost(TransportErrorKind::Timeout, "no answer in time")),
        };
        let now = network.clock.now();
        if class == RouteClass::Poll {
            network.watch.ramp_answered(left_at);
        }
        let is_accepted = |answer: &HttpResponse| answer.status.is_success();
        if let Some(model) = model
            && answer.as_ref().is_ok_and(is_accepted)
        {
            network.waits.accepted(model, now);
        }
        if let Some(call) = sample {
            let found_none = |error: &TransportError| error.kind == TransportErrorKind::Connect;
            let found_none = answer.as_ref().is_err_and(found_none);
            network.waits.ended(call, now, found_none, answer.is_ok());
            if network.control == Some(Control::WindowFromStart)
                && found_none
                && left_at.since(asked_at) > Duration::from_secs(300)
            {
                // Of this kind none is repeated.
                answer = Err(TransportError::new(
                    TransportErrorKind::Tls,
                    Sent::NotSent,
                    "no connection, and no time left",
                ));
            }
        }
        match &answer {
            Ok(answer) => network
                .trace
                .note(format_args!("{what} -> {}", answer.status.as_u16())),
            Err(error) => network
                .trace
                .note(format_args!("{what} -> {:?} {:?}", error.kind, error.sent)),
        }
        if let Some(PollUnderWay(watch, id)) = &poll {
            let has_failed = answer
                .as_ref()
                .map_or(true, |answer| answer.status.is_server_error());
            watch.poll_answered(id, network.clock.now(), has_failed);
        }
        if let Some(session) = session {
            let arrived = struck.is_none() && answer.is_ok();
            let beat = if arrived { Beat::Arrived } else { Beat::Struck };
            network.watch.beat(&session, network.clock.now(), beat);
        }
        let answer = answer?;
        if op == Op::Poll && !answer.status.is_server_error() && says_capacity(&answer) {
            network.misfortune.met(Kind::Capacity, op);
        }
        if answer.status != StatusCode::TOO_MANY_REQUESTS {
            return Ok(answer);
        }
        let body = self.refused(class, struck, answer, &departure);
        let body = time.deadline(time.now().after(longest_body), body).await;
        body.ok_or_else(|| lost(TransportErrorKind::Timeout, "the body did not come in time"))
    }

    /// A refusal for the rate: the client is told of its head at once, and its body may take a while.
    async fn refused(
        &self,
        class: RouteClass,
        struck: Option<Kind>,
        mut answer: HttpResponse,
        departure: &Departure,
    ) -> HttpResponse {
        let network = &*self.network;
        let wall = network.clock.wall();
        let head = HttpResponse {
            body: Bytes::new(),
            ..answer.clone()
        };
        let closes = |hint: Option<Duration>| {
            let now = network.clock.now();
            let until = network.watch.refused(class, now, hint);
            if class == RouteClass::Sample {
                network.waits.closed(now, until);
            }
        };
        closes(hint::retry_after(&head, wall));
        let in_body = hint::retry_after(&answer, wall);
        if network.control == Some(Control::HintsNotHeard) {
            answer.headers.clear();
            answer.body = Bytes::from_static(b"{}");
        }
        if network.control != Some(Control::LateHead) {
            departure.head(answer.status, &answer.headers, wall);
        }
        if struck == Some(Kind::SlowBody) {
            network.pause(Duration::from_secs(30)).await;
        }
        if hint::retry_after(&head, wall).is_none() {
            closes(in_body);
        }
        answer
    }
}

impl Network {
    async fn carry(&self, op: Op, struck: Option<Kind>, request: HttpRequest) -> Answer {
        let Some(kind) = struck.filter(|kind| *kind != Kind::Dial) else {
            return self.deliver(op, request).await;
        };
        match kind {
            Kind::Refused | Kind::Restart => Err(TransportError::new(
                TransportErrorKind::Connect,
                Sent::NotSent,
                "no connection",
            )),
            Kind::Partition if self.chance.happens(0.3) => Err(TransportError::new(
                TransportErrorKind::Connect,
                Sent::NotSent,
                "no route",
            )),
            Kind::LostBefore => {
                self.pause(Duration::from_secs(1)).await;
                Err(lost(TransportErrorKind::Broken, "the connection broke"))
            }
            Kind::LostAfter => {
                let _ = self.deliver(op, request).await;
                Err(lost(TransportErrorKind::Broken, "the connection broke"))
            }
            Kind::BodyCut => match self.deliver(op, request).await {
                Ok(_) => Err(lost(TransportErrorKind::Broken, "the answer was cut")),
                Err(error) => Err(error),
            },
            Kind::Silence | Kind::Partition => {
                if kind == Kind::Silence && self.chance.happens(0.5) {
                    let _ = self.deliver(op, request).await;
                }
                std::future::pending().await
            }
            Kind::Late => {
                self.pause(Duration::from_secs(20)).await;
                self.deliver(op, request).await
            }
            Kind::AnswerLate => {
                let answer = self.deliver(op, request).await;
                self.pause(Duration::from_secs(20)).await;
                answer
            }
            Kind::Twice => {
                self.again(request.clone());
                self.deliver(op, request).await
            }
            Kind::Truncated => {
                let mut answer = self.deliver(op, request).await?;
                answer.body.truncate(answer.body.len() / 2);
                answer.headers.remove(http::header::CONTENT_LENGTH);
                Ok(answer)
            }
            Kind::Unknown => Ok(with_unknown(self.deliver(op, request).await?)),
            Kind::Timeout408 | Kind::Error500 | Kind::Error502 | Kind::Html => {
                if self.chance.happens(0.5) {
                    let _ = self.deliver(op, request).await;
                }
                Ok(self.spoilt(kind))
            }
            _ => Ok(self.spoilt(kind)),
        }
    }

    async fn deliver(&self, op: Op, request: HttpRequest) -> Answer {
        if op.adds() && !self.deduplicates {
            let body = Hash::of(Hash::START, &request.body);
            self.watch.delivered(body, op.name());
        }
        self.server.send(request).await
    }

    /// The same request arrives once more, later, and nobody hears what comes of it.
    fn again(&self, request: HttpRequest) {
        let time: &dyn Time = &self.clock;
        let sleep = time.sleep(self.chance.time(Duration::ZERO, Duration::from_secs(30)));
        let server = self.server.clone();
        let late = async move {
            sleep.await;
            let _ = server.send(request).await;
        };
        self.spawn.spawn(Box::pin(late)).detach();
    }

    /// A request waits for a connection.
    async fn dial(&self, longest: Duration) -> Result<(), TransportError> {
        let time: &dyn Time = &self.clock;
        let waited = self.pause(Duration::from_secs(30));
        let waited = time.deadline(time.now().after(longest), waited).await;
        waited.ok_or_else(|| {
            TransportError::new(
                TransportErrorKind::Timeout,
                Sent::NotSent,
                "no connection in time",
            )
        })
    }

    async fn pause(&self, longest: Duration) {
        let time: &dyn Time = &self.clock;
        time.sleep(self.chance.time(Duration::ZERO, longest)).await;
    }

    /// An answer that is not the server's.
    fn spoilt(&self, kind: Kind) -> HttpResponse {
        let longest = match kind {
            Kind::LongHint => Duration::from_secs(14 * 60),
            _ => Duration::from_secs(40),
        };
        let wait = self.chance.time(Duration::from_millis(20), longest);
        let (status, body) = match kind {
            Kind::Timeout408 => (
                408,
                json!({ "queue_state": "paused_rate_limit", "queue_state_reason": "busy" }),
            ),
            Kind::Conflict409 => (409, json!({ "detail": "this number was used before" })),
            Kind::Gone410 => (410, json!({ "detail": "the result is no longer kept" })),
            Kind::Billing402 => (402, json!({ "detail": "billing is not set up" })),
            Kind::LimitedBody => (
                429,
                json!({ "detail": "slow down", "retry_after_ms": wait.as_millis() as u64 }),
            ),
            kind if kind.limits() => (429, json!({ "detail": "slow down" })),
            Kind::Empty400 => (400, Value::Null),
            Kind::Error500 => (500, json!({ "detail": "an internal error" })),
            Kind::Error502 => (502, Value::Null),
            Kind::Outage => (503, Value::Null),
            _ => (200, Value::Null),
        };
        let mut answer = HttpResponse {
            status: StatusCode::from_u16(status).unwrap_or_default(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        };
        if !body.is_null() {
            answer
                .headers
                .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            answer.body = body.to_string().into();
        }
        if matches!(kind, Kind::Error502 | Kind::Outage | Kind::Html) {
            answer
                .headers
                .insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
            answer.body =
                Bytes::from_static(b"<html><body>Please sign in to the proxy</body></html>");
        }
        let seconds = wait.as_secs() + 1;
        match kind {
            Kind::LimitedMs | Kind::SlowBody | Kind::LongHint => {
                let ms = HeaderValue::from(wait.as_millis() as u64);
                answer
                    .headers
                    .insert(HeaderName::from_static("retry-after-ms"), ms);
            }
            Kind::LimitedSeconds => {
                answer
                    .headers
                    .insert(RETRY_AFTER, HeaderValue::from(seconds));
            }
            Kind::LimitedDate => {
                let date =
                    httpdate::fmt_http_date(self.clock.wall() + Duration::from_secs(seconds));
                let date = HeaderValue::from_str(&date).ok();
                answer.headers.extend(date.map(|date| (RETRY_AFTER, date)));
            }
            _ => {}
        }
        answer
    }
}

fn lost(kind: TransportErrorKind, message: &str) -> TransportError {
    TransportError::new(kind, Sent::MaybeSent, message)
}

fn text_of(body: &[u8], field: &str) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    body[field].as_str().unwrap_or_default().to_owned()
}

fn says_capacity(answer: &HttpResponse) -> bool {
    answer.body.len() < 1024
        && answer
            .body
            .windows(b"paused_capacity".len())
            .any(|part| part == b"paused_capacity")
}

/// The same answer from a server of another year.
fn with_unknown(mut answer: HttpResponse) -> HttpResponse {
    let Ok(Value::Object(mut body)) = serde_json::from_slice(&answer.body) else {
        return answer;
    };
    body.insert("novelty".to_owned(), json!({ "kind": ["never", "seen"] }));
    if body.contains_key("queue_state") {
        body.insert("queue_state".to_owned(), json!("hibernating"));
    }
    answer.body = Value::Object(body).to_string().into();
    answer.headers.remove(http::header::CONTENT_LENGTH);
    answer
}
