//! What goes wrong with a request that a rule strikes.

use std::time::Duration;

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
    Answer(Box<Response>),
    Delay(Duration),
    DelayAnswer(Duration),
    Refuse,
    CutBefore,
    CutAfter,
    Duplicate,
}

impl Fault {
    const fn of(action: Action) -> Self {
        Self { action }
    }

    /// This answer instead of the server's; the request is not applied.
    pub fn answer(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self::of(Action::Answer(Box::new(Response {
            status,
            headers: HeaderMap::new(),
            body: body.into(),
        })))
    }

    /// A JSON answer instead of the server's; the request is not applied.
    pub fn json(status: StatusCode, body: &Value) -> Self {
        let json = HeaderValue::from_static("application/json");
        Self::answer(status, body.to_string()).with_header(CONTENT_TYPE, json)
    }

    /// The same with a header on its answer, when it is an answer.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        if let Action::Answer(response) = &mut self.action {
            response.headers.insert(name, value);
        }
        self
    }

    /// 429.
    pub fn rate_limited(hint: Hint) -> Self {
        let mut body = json!({ "detail": "too many requests" });
        hint.add_to_body(&mut body);
        let fault = Self::json(StatusCode::TOO_MANY_REQUESTS, &body);
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

    /// The request is applied twice; one answer comes back.
    pub fn duplicate() -> Self {
        Self::of(Action::Duplicate)
    }
}
