//! The faults that a rule can apply to a request.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::Hint;
use crate::http::Response;

/// A fault to inject into a request, such as an error status, a delay or a cut connection.
#[derive(Debug, Clone)]
pub struct Fault {
    pub(crate) action: Action,
}

#[derive(Debug, Clone)]
pub(crate) enum Action {
    Respond(Box<FixedResponse>),
    Delay(Duration),
    DelayResponse(Duration),
    Refuse,
    CutBefore,
    CutAfter,
    CutBody,
    Truncate,
    Duplicate,
    PauseCapacity(Duration),
    ExpireSessions,
    RevokeTokens,
    RevokeKey,
    Restart,
}

/// A response that a fault sends instead of the response of the server.
#[derive(Debug, Clone)]
pub(crate) struct FixedResponse {
    response: Response,
    /// For a response with a date in its `Retry-After` header: how long after the sending of the response this date is. `None` for
    /// all other responses.
    retry_after_date: Option<Duration>,
}

impl FixedResponse {
    /// Returns the response for sending at the date `wall`. Computes the date of the `Retry-After` header, if the response has one.
    pub(crate) fn at(mut self, wall: SystemTime) -> Response {
        let hint = self
            .retry_after_date
            .map(|after| Hint::date_after(after, wall));
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

    /// Creates a fault that sends this response. The server does not process the request.
    pub fn answer(status: StatusCode, body: impl Into<Bytes>) -> Self {
        let response = Response {
            status,
            headers: HeaderMap::new(),
            body: body.into(),
        };
        Self::of(Action::Respond(Box::new(FixedResponse {
            response,
            retry_after_date: None,
        })))
    }

    /// Creates a fault that sends this JSON response. The server does not process the request.
    pub fn json(status: StatusCode, body: &Value) -> Self {
        let json = HeaderValue::from_static("application/json");
        Self::answer(status, body.to_string()).with_header(CONTENT_TYPE, json)
    }

    /// Sets a header of the response that the fault sends. Has no effect on faults that send no response of their own, such as
    /// delays.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        if let Action::Respond(fixed) = &mut self.action {
            fixed.response.headers.insert(name, value);
        }
        self
    }

    /// Creates a fault that responds with 429 (too many requests) and this `retry-after` hint.
    pub fn rate_limited(hint: Hint) -> Self {
        let mut body = json!({ "detail": "too many requests" });
        hint.add_to_body(&mut body);
        let mut fault = Self::json(StatusCode::TOO_MANY_REQUESTS, &body);
        if let (Hint::DateAfter(after), Action::Respond(fixed)) = (&hint, &mut fault.action) {
            fixed.retry_after_date = Some(*after);
        }
        match hint.header() {
            Some((name, value)) => fault.with_header(name, value),
            None => fault,
        }
    }

    /// Creates a fault that responds with 400 and an empty body, as some proxies do.
    pub fn empty_400() -> Self {
        Self::answer(StatusCode::BAD_REQUEST, Bytes::new())
    }

    /// Creates a fault that responds to a poll with 408 and a queue state, as some servers do when the operation has not ended in
    /// time.
    pub fn poll_timeout(queue_state: &str, reason: &str) -> Self {
        let body = json!({ "queue_state": queue_state, "queue_state_reason": reason });
        Self::json(StatusCode::REQUEST_TIMEOUT, &body)
    }

    /// Creates a fault that responds with 402 (payment required).
    pub fn payment_required() -> Self {
        Self::json(
            StatusCode::PAYMENT_REQUIRED,
            &json!({ "detail": "billing is not set up" }),
        )
    }

    /// Creates a fault that responds with 410 (gone).
    pub fn gone() -> Self {
        Self::json(
            StatusCode::GONE,
            &json!({ "detail": "the result is no longer kept" }),
        )
    }

    /// Creates a fault that responds with an HTML page instead of JSON, as a proxy does. The server does not process the request.
    pub fn html(status: StatusCode) -> Self {
        let page = format!(
            "<html>\n<head><title>{status}</title></head>\n<body><h1>{status}</h1></body>\n</html>\n"
        );
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        Self::answer(status, page).with_header(CONTENT_TYPE, html)
    }

    /// Creates a fault that responds to a poll for a single result with "try again" and a queue state that the API does not define.
    pub fn unknown_queue_state() -> Self {
        let body = json!({ "type": "try_again", "queue_state": "paused_by_a_newer_server" });
        Self::json(StatusCode::OK, &body)
    }

    /// Creates a fault that responds with this status. The JSON body contains `detail` as the reason.
    pub fn status(status: StatusCode, detail: &str) -> Self {
        Self::json(status, &json!({ "detail": detail }))
    }

    /// Creates a fault that delays the request before the server processes it.
    pub fn delay(delay: Duration) -> Self {
        Self::of(Action::Delay(delay))
    }

    /// Creates a fault that delays the response. The server processes the request at once.
    pub fn delay_answer(delay: Duration) -> Self {
        Self::of(Action::DelayResponse(delay))
    }

    /// Creates a fault that refuses the connection of an in-process client, so that no request is sent. On a real socket, the
    /// request has already arrived when the fault applies, so the fault cuts the connection instead. The server does not process
    /// the request.
    pub fn refuse() -> Self {
        Self::of(Action::Refuse)
    }

    /// Creates a fault that cuts the connection before the server processes the request.
    pub fn cut_before() -> Self {
        Self::of(Action::CutBefore)
    }

    /// Creates a fault that cuts the connection after the server has processed the request, without a response.
    pub fn cut_after() -> Self {
        Self::of(Action::CutAfter)
    }

    /// Creates a fault that cuts the connection in the middle of the response body, after the server has processed the request.
    ///
    /// On a socket, the server sends the head with the full length, then the first half of the body. With an in-process client,
    /// which gets only complete responses, the request fails without a response.
    pub fn cut_body() -> Self {
        Self::of(Action::CutBody)
    }

    /// Creates a fault that sends only the first half of the response body, so that its JSON is incomplete. The length in the
    /// response header matches the truncated body. The server processes the request.
    pub fn truncate() -> Self {
        Self::of(Action::Truncate)
    }

    /// Creates a fault that makes the server process the request twice and send one response, as if a proxy had repeated the
    /// request.
    pub fn duplicate() -> Self {
        Self::of(Action::Duplicate)
    }

    /// Creates a fault that simulates a lack of capacity for `length` and then processes the request. See
    /// [`LocalServer::pause_capacity`](crate::LocalServer::pause_capacity).
    pub fn pause_capacity(length: Duration) -> Self {
        Self::of(Action::PauseCapacity(length))
    }

    /// Creates a fault that ends all sessions, as if the server had received no heartbeats, and then processes the request.
    pub fn expire_sessions() -> Self {
        Self::of(Action::ExpireSessions)
    }

    /// Creates a fault that makes all tokens invalid that API keys were exchanged for, and then processes the request. See
    /// [`AccessControl::revoke_tokens`](crate::AccessControl::revoke_tokens).
    pub fn revoke_tokens() -> Self {
        Self::of(Action::RevokeTokens)
    }

    /// Creates a fault that revokes the API key of the request, or the key of its token, and then processes the request, which the server
    /// refuses with 401. Has no effect on a request without a valid key.
    pub fn revoke_key() -> Self {
        Self::of(Action::RevokeKey)
    }

    /// Creates a fault that restarts the server instead of processing the request (see
    /// [`LocalServer::restart`](crate::LocalServer::restart)). The restart cuts the connections of all running requests, and loses
    /// all state except checkpoints.
    pub fn restart() -> Self {
        Self::of(Action::Restart)
    }
}
