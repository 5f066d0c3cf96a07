//! What goes wrong with a request that a rule strikes.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::Hint;
use crate::http::Response;

/// What goes wrong with a request.
#[derive(Debug, Clone)]
pub struct Fault {
    pub(crate) action: Action,
}

#[derive(Debug, Clone)]
pub(crate) enum Action {
    Answer(Box<Scripted>),
    Delay(Duration),
    DelayAnswer(Duration),
    Refuse,
    CutBefore,
    CutAfter,
    CutBody,
    Truncate,
    Duplicate,
    PauseCapacity(Duration),
    ExpireSessions,
    Restart,
}

/// An answer of the script's.
#[derive(Debug, Clone)]
pub(crate) struct Scripted {
    response: Response,
    /// `Retry-After` is the date so long after the answer.
    dated: Option<Duration>,
}

impl Scripted {
    /// The answer as it leaves at `wall`.
    pub(crate) fn at(mut self, wall: SystemTime) -> Response {
        let hint = self.dated.map(|after| Hint::date_after(after, wall));
        if let Some((name, value)) = hint.as_ref().and_then(Hint::header) {
            self.response.headers.insert(name, value);
        }
        self.response
    }
}

impl Fault {
    const fn of(action: Action) -> Self {
        Self { action }
    }

    /// This answer instead of the server's; the request is not applied.
    pub fn answer(status: StatusCode, body: impl Into<Bytes>) -> Self {
        let response = Response {
            status,
            headers: HeaderMap::new(),
            body: body.into(),
        };
        let dated = None;
        Self::of(Action::Answer(Box::new(Scripted { response, dated })))
    }

    /// A JSON answer instead of the server's; the request is not applied.
    pub fn json(status: StatusCode, body: &Value) -> Self {
        let json = HeaderValue::from_static("application/json");
        Self::answer(status, body.to_string()).with_header(CONTENT_TYPE, json)
    }

    /// The same with a header on its answer, when it is an answer.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        if let Action::Answer(scripted) = &mut self.action {
            scripted.response.headers.insert(name, value);
        }
        self
    }

    /// 429.
    pub fn rate_limited(hint: Hint) -> Self {
        let mut body = json!({ "detail": "too many requests" });
        hint.add_to_body(&mut body);
        let mut fault = Self::json(StatusCode::TOO_MANY_REQUESTS, &body);
        if let (Hint::DateAfter(after), Action::Answer(scripted)) = (&hint, &mut fault.action) {
            scripted.dated = Some(*after);
        }
        match hint.header() {
            Some((name, value)) => fault.with_header(name, value),
            None => fault,
        }
    }

    /// A 400 without a body, as a proxy gives it.
    pub fn empty_400() -> Self {
        Self::answer(StatusCode::BAD_REQUEST, Bytes::new())
    }

    /// 408 with a queue state, as some servers end a long poll.
    pub fn poll_timeout(queue_state: &str, reason: &str) -> Self {
        let body = json!({ "queue_state": queue_state, "queue_state_reason": reason });
        Self::json(StatusCode::REQUEST_TIMEOUT, &body)
    }

    /// 402.
    pub fn payment_required() -> Self {
        Self::json(
            StatusCode::PAYMENT_REQUIRED,
            &json!({ "detail": "billing is not set up" }),
        )
    }

    /// 410.
    pub fn gone() -> Self {
        Self::json(
            StatusCode::GONE,
            &json!({ "detail": "the result is no longer kept" }),
        )
    }

    /// A page for people in place of JSON, as a proxy gives it; the request is not applied.
    pub fn html(status: StatusCode) -> Self {
        let page = format!(
            "<html>\n<head><title>{status}</title></head>\n<body><h1>{status}</h1></body>\n</html>\n"
        );
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        Self::answer(status, page).with_header(CONTENT_TYPE, html)
    }

    /// "Not yet" to a poll for one result, with a queue state that no client of today knows.
    pub fn unknown_queue_state() -> Self {
        let body = json!({ "type": "try_again", "queue_state": "paused_by_a_newer_server" });
        Self::json(StatusCode::OK, &body)
    }

    /// Any error status with a reason.
    pub fn status(status: StatusCode, detail: &str) -> Self {
        Self::json(status, &json!({ "detail": detail }))
    }

    /// The request waits before it is applied.
    pub fn delay(delay: Duration) -> Self {
        Self::of(Action::Delay(delay))
    }

    /// The answer waits after the request was applied.
    pub fn delay_answer(delay: Duration) -> Self {
        Self::of(Action::DelayAnswer(delay))
    }

    /// No connection: nothing was sent. Over a socket the connection is cut instead.
    pub fn refuse() -> Self {
        Self::of(Action::Refuse)
    }

    /// The connection is cut and the request is not applied.
    pub fn cut_before() -> Self {
        Self::of(Action::CutBefore)
    }

    /// The request is applied and the connection is cut instead of an answer.
    pub fn cut_after() -> Self {
        Self::of(Action::CutAfter)
    }

    /// The request is applied, and the connection is cut half way through the body of its answer.
    ///
    /// Over a socket the head and the first half are sent, with the length of the whole. In process the exchange is broken, since
    /// a transport gives whole answers only.
    pub fn cut_body() -> Self {
        Self::of(Action::CutBody)
    }

    /// The request is applied, and its answer has the first half of its body and the length of that: JSON that ends too early.
    pub fn truncate() -> Self {
        Self::of(Action::Truncate)
    }

    /// The request is applied twice; one answer comes back.
    pub fn duplicate() -> Self {
        Self::of(Action::Duplicate)
    }

    /// With this request the server begins to pause for want of capacity, for `length`: see
    /// [`LocalServer::pause_capacity`](crate::LocalServer::pause_capacity). The request itself is served.
    pub fn pause_capacity(length: Duration) -> Self {
        Self::of(Action::PauseCapacity(length))
    }

    /// Right before this request all sessions end, as if none had sent a heartbeat for too long. Then it is served.
    pub fn expire_sessions() -> Self {
        Self::of(Action::ExpireSessions)
    }

    /// In place of this request the server is [started again](crate::LocalServer::restart): it and all that are under way are cut
    /// and not answered, and what is not a checkpoint is forgotten.
    pub fn restart() -> Self {
        Self::of(Action::Restart)
    }
}
