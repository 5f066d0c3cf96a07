//! Responses of proxies and of faulty servers, and changes to the responses of the server.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Map, Value, json};
use tinkers_core::{Clock, HttpResponse, ManualClock, Sent, TransportError, TransportErrorKind};

use crate::fault::Fault;
use crate::rng::Rng;

/// Returns the response that the client receives if `fault` is injected into its request.
pub(crate) fn fault_response(fault: Fault, rng: &Rng, clock: &ManualClock) -> HttpResponse {
    let max_hint = match fault {
        Fault::RateLimitedLongHint => Duration::from_secs(14 * 60),
        _ => Duration::from_secs(40),
    };
    let hint = rng.duration(Duration::from_millis(20), max_hint);
    let (status, body) = match fault {
        Fault::Timeout408 => (
            408,
            json!({ "queue_state": "paused_rate_limit", "queue_state_reason": "busy" }),
        ),
        Fault::Conflict409 => (409, json!({ "detail": "this number was used before" })),
        Fault::Gone410 => (410, json!({ "detail": "the result is no longer kept" })),
        Fault::Billing402 => (402, json!({ "detail": "billing is not set up" })),
        Fault::RateLimitedBody => (
            429,
            json!({ "detail": "slow down", "retry_after_ms": hint.as_millis() as u64 }),
        ),
        fault if fault.is_rate_limit() => (429, json!({ "detail": "slow down" })),
        Fault::Empty400 => (400, Value::Null),
        Fault::ProxyPage4xx => (*rng.choose(&[401, 403, 404, 405, 421, 431]), Value::Null),
        Fault::GarbledAck => rng
            .choose(&[
                (200, json!({})),
                (200, json!({ "completions": 7 })),
                (202, Value::Null),
                (400, json!({ "detail": "these ids are not known" })),
            ])
            .clone(),
        Fault::Error500 => (500, json!({ "detail": "an internal error" })),
        Fault::Error502 => (502, Value::Null),
        Fault::Outage => (503, Value::Null),
        _ => (200, Value::Null),
    };
    let mut response = HttpResponse {
        status: StatusCode::from_u16(status).unwrap_or_default(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
    };
    if !body.is_null() {
        response
            .headers
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.body = body.to_string().into();
    }
    if matches!(
        fault,
        Fault::Error502 | Fault::Outage | Fault::Html | Fault::ProxyPage4xx
    ) {
        response
            .headers
            .insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
        response.body =
            Bytes::from_static(b"<html><body>Please sign in to the proxy</body></html>");
    }
    let seconds = hint.as_secs() + 1;
    match fault {
        Fault::RateLimitedMs | Fault::RateLimitedSlowBody | Fault::RateLimitedLongHint => {
            let ms = HeaderValue::from(hint.as_millis() as u64);
            response
                .headers
                .insert(HeaderName::from_static("retry-after-ms"), ms);
        }
        Fault::RateLimitedSeconds => {
            response
                .headers
                .insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        Fault::RateLimitedDate => {
            let date = httpdate::fmt_http_date(clock.wall() + Duration::from_secs(seconds));
            let date = HeaderValue::from_str(&date).ok();
            response
                .headers
                .extend(date.map(|date| (RETRY_AFTER, date)));
        }
        _ => {}
    }
    response
}

/// Returns the transport error that the client receives for a request that the server may have
/// applied.
pub(crate) fn maybe_sent(kind: TransportErrorKind, message: &str) -> TransportError {
    TransportError::new(kind, Sent::MaybeSent, message)
}

/// Returns a field of a JSON body. Returns an empty string if the field is missing or is not a
/// string.
pub(crate) fn text_field(body: &[u8], field: &str) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    body[field].as_str().unwrap_or_default().to_owned()
}

/// Returns whether the response to a poll reports that the server has paused the queue for lack of
/// capacity.
pub(crate) fn is_paused_for_capacity(response: &HttpResponse) -> bool {
    response.body.len() < 1024
        && response
            .body
            .windows(b"paused_capacity".len())
            .any(|part| part == b"paused_capacity")
}

/// Changes the body of a response with `edit`, if the body is a JSON object.
pub(crate) fn edit_body(response: &mut HttpResponse, edit: impl FnOnce(&mut Map<String, Value>)) {
    let Ok(Value::Object(mut body)) = serde_json::from_slice(&response.body) else {
        return;
    };
    edit(&mut body);
    response.body = Value::Object(body).to_string().into();
    response.headers.remove(CONTENT_LENGTH);
}

/// Adds unknown fields and enum values to a response, as a future version of the API could.
pub(crate) fn with_unknown_fields(mut response: HttpResponse) -> HttpResponse {
    edit_body(&mut response, |body| {
        body.insert("novelty".to_owned(), json!({ "kind": ["never", "seen"] }));
        if body.contains_key("queue_state") {
            body.insert("queue_state".to_owned(), json!("hibernating"));
        }
    });
    response
}

/// Replaces the cursor in the response to a shared poll. The new cursor is invalid or less than
/// `cursor`, the cursor of the request.
pub(crate) fn with_stale_cursor(
    mut response: HttpResponse,
    cursor: i64,
    rng: &Rng,
) -> HttpResponse {
    edit_body(&mut response, |body| {
        let before = cursor.saturating_sub(1);
        let cursors = [
            json!(before),
            json!(0),
            json!(-7),
            json!("soon"),
            Value::Null,
        ];
        body.insert("cursor".to_owned(), rng.choose(&cursors).clone());
    });
    response
}
