//! Answers that are not the server's, and what is changed in those that are.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};
use tinkers_core::{Clock, HttpResponse, ManualClock, Sent, TransportError, TransportErrorKind};

use crate::chance::Chance;
use crate::fault::Kind;

/// An answer that is not the server's.
pub(crate) fn spoilt(kind: Kind, chance: &Chance, clock: &ManualClock) -> HttpResponse {
    let longest = match kind {
        Kind::LongHint => Duration::from_secs(14 * 60),
        _ => Duration::from_secs(40),
    };
    let wait = chance.time(Duration::from_millis(20), longest);
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
        Kind::Status4xx => (*chance.pick(&[401, 403, 404, 405, 421, 431]), Value::Null),
        Kind::AckGarbled => chance
            .pick(&[
                (200, json!({})),
                (200, json!({ "completions": 7 })),
                (202, Value::Null),
                (400, json!({ "detail": "these ids are not known" })),
            ])
            .clone(),
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
    if matches!(
        kind,
        Kind::Error502 | Kind::Outage | Kind::Html | Kind::Status4xx
    ) {
        answer
            .headers
            .insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
        answer.body = Bytes::from_static(b"<html><body>Please sign in to the proxy</body></html>");
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
            let date = httpdate::fmt_http_date(clock.wall() + Duration::from_secs(seconds));
            let date = HeaderValue::from_str(&date).ok();
            answer.headers.extend(date.map(|date| (RETRY_AFTER, date)));
        }
        _ => {}
    }
    answer
}

pub(crate) fn lost(kind: TransportErrorKind, message: &str) -> TransportError {
    TransportError::new(kind, Sent::MaybeSent, message)
}

pub(crate) fn text_of(body: &[u8], field: &str) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    body[field].as_str().unwrap_or_default().to_owned()
}

pub(crate) fn says_capacity(answer: &HttpResponse) -> bool {
    answer.body.len() < 1024
        && answer
            .body
            .windows(b"paused_capacity".len())
            .any(|part| part == b"paused_capacity")
}

/// The same answer from a server of another year.
pub(crate) fn with_unknown(mut answer: HttpResponse) -> HttpResponse {
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

/// The same answer with a cursor that goes back from `cursor`, or cannot be read.
pub(crate) fn with_cursor_back(
    mut answer: HttpResponse,
    cursor: i64,
    chance: &Chance,
) -> HttpResponse {
    let Ok(Value::Object(mut body)) = serde_json::from_slice(&answer.body) else {
        return answer;
    };
    let back = cursor.saturating_sub(1);
    let cursors = [json!(back), json!(0), json!(-7), json!("soon"), Value::Null];
    body.insert("cursor".to_owned(), chance.pick(&cursors).clone());
    answer.body = Value::Object(body).to_string().into();
    answer.headers.remove(http::header::CONTENT_LENGTH);
    answer
}
