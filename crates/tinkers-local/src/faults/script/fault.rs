//! Parses the fault of a rule.

use std::time::Duration;

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};

use super::fields::{Fields, InvalidScript};
use crate::faults::{Fault, Hint};

/// The values that the field `fault` of a rule in a fault script can have, in the order of the documentation.
const KINDS: [&str; 21] = [
    "answer",
    "rate_limited",
    "empty_400",
    "payment_required",
    "gone",
    "html",
    "poll_timeout",
    "unknown_queue_state",
    "delay",
    "delay_answer",
    "refuse",
    "cut_before",
    "cut_after",
    "cut_body",
    "truncate",
    "duplicate",
    "pause_capacity",
    "expire_sessions",
    "revoke_tokens",
    "revoke_key",
    "restart",
];

/// Parses the fault of a rule from the fields of the rule. Returns the name of the fault and the fault.
pub(super) fn parse_fault(fields: &mut Fields<'_>) -> Result<(String, Fault), InvalidScript> {
    let kind = fields.text("fault")?.unwrap_or_default();
    let fault = match kind.as_str() {
        "answer" => answer(fields)?,
        "rate_limited" => Fault::rate_limited(hint(fields)?),
        "empty_400" => Fault::empty_400(),
        "payment_required" => Fault::payment_required(),
        "gone" => Fault::gone(),
        "html" => Fault::html(status(fields)?.unwrap_or(StatusCode::BAD_GATEWAY)),
        "poll_timeout" => {
            let state = fields.text("queue_state")?;
            let reason = fields.text("reason")?.unwrap_or_default();
            Fault::poll_timeout(state.as_deref().unwrap_or("paused_capacity"), &reason)
        }
        "unknown_queue_state" => Fault::unknown_queue_state(),
        "delay" => Fault::delay(length(fields, "delay_s")?),
        "delay_answer" => Fault::delay_answer(length(fields, "delay_s")?),
        "refuse" => Fault::refuse(),
        "cut_before" => Fault::cut_before(),
        "cut_after" => Fault::cut_after(),
        "cut_body" => Fault::cut_body(),
        "truncate" => Fault::truncate(),
        "duplicate" => Fault::duplicate(),
        "pause_capacity" => Fault::pause_capacity(length(fields, "pause_s")?),
        "expire_sessions" => Fault::expire_sessions(),
        "revoke_tokens" => Fault::revoke_tokens(),
        "revoke_key" => Fault::revoke_key(),
        "restart" => Fault::restart(),
        _ => {
            let expected = format!("one of {}", KINDS.join(", "));
            return Err(fields.unknown("fault", expected, KINDS));
        }
    };
    Ok((kind, fault))
}

fn answer(fields: &mut Fields<'_>) -> Result<Fault, InvalidScript> {
    let Some(status) = status(fields)? else {
        return Err(fields.invalid("status", "an HTTP status from 200 to 599"));
    };
    let body = fields.text("body")?.unwrap_or_default();
    let content_type = fields.text("content_type")?;
    let content_type = HeaderValue::from_str(content_type.as_deref().unwrap_or("application/json"))
        .map_err(|_| fields.invalid("content_type", "a type such as text/plain"))?;
    Ok(Fault::answer(status, body).with_header(CONTENT_TYPE, content_type))
}

fn hint(fields: &mut Fields<'_>) -> Result<Hint, InvalidScript> {
    let form = fields.text("hint")?;
    let form = form.as_deref().unwrap_or("ms");
    let default = || Duration::from_secs(1);
    Ok(match form {
        "none" => Hint::None,
        "text" => {
            let text = fields.text("text")?;
            let is_valid = |text: &String| HeaderValue::from_str(text).is_ok();
            let Some(text) = text.filter(is_valid) else {
                return Err(fields.invalid("text", "a text that a header can carry"));
            };
            Hint::Text(text)
        }
        "seconds" => match fields.whole("retry_after_s", 0)? {
            Some(seconds) => Hint::Seconds(seconds),
            None => Hint::Seconds(1),
        },
        "ms" => Hint::Milliseconds(ms(fields.seconds("retry_after_s")?.unwrap_or_else(default))),
        "body" => Hint::Body(ms(fields.seconds("retry_after_s")?.unwrap_or_else(default))),
        "date" => Hint::DateAfter(fields.seconds("retry_after_s")?.unwrap_or_else(default)),
        _ => {
            const FORMS: [&str; 6] = ["ms", "seconds", "date", "body", "none", "text"];
            return Err(fields.unknown("hint", "ms, seconds, date, body, none or text", FORMS));
        }
    })
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn status(fields: &mut Fields<'_>) -> Result<Option<StatusCode>, InvalidScript> {
    let Some(status) = fields.whole("status", 200)? else {
        return Ok(None);
    };
    let valid = u16::try_from(status).ok().filter(|status| *status < 600);
    match valid.and_then(|status| StatusCode::from_u16(status).ok()) {
        Some(status) => Ok(Some(status)),
        None => Err(fields.invalid("status", "an HTTP status from 200 to 599")),
    }
}

fn length(fields: &mut Fields<'_>, name: &'static str) -> Result<Duration, InvalidScript> {
    match fields.seconds(name)? {
        Some(length) => Ok(length),
        None => Err(fields.invalid(name, "a number of seconds from 0")),
    }
}
