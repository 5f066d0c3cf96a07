//! The `retry-after` hint of a 429 response.

use std::time::{Duration, SystemTime};

use http::HeaderValue;
use http::header::{HeaderName, RETRY_AFTER};
use serde_json::Value;

/// The `retry-after` hint of a 429 response, which says how long a client should wait before it retries: its value and how it is
/// encoded.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Hint {
    /// The response contains no `retry-after` hint.
    None,
    /// A `retry-after-ms` header with this number of milliseconds.
    Milliseconds(u64),
    /// A `Retry-After` header with this number of seconds.
    Seconds(u64),
    /// A `Retry-After` header with this date.
    Date(SystemTime),
    /// A `Retry-After` header with a date: the time of the response plus this duration, rounded up to a whole second.
    DateAfter(Duration),
    /// A field `retry_after_ms` in the JSON body, with this number of milliseconds.
    Body(u64),
    /// A `Retry-After` header with this text. The text may be invalid.
    Text(String),
}

impl Hint {
    /// Returns the `retry-after` hint for the date `wall + after`, rounded up to a whole second.
    pub(crate) fn date_after(after: Duration, wall: SystemTime) -> Self {
        let now = wall
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let at = now.saturating_add(after);
        let second = at.as_secs() + u64::from(at.subsec_nanos() > 0);
        Self::Date(SystemTime::UNIX_EPOCH + Duration::from_secs(second))
    }

    /// Returns the response header of the `retry-after` hint. Returns `None` if the hint has no header, or if its text is not valid
    /// in a header.
    pub(crate) fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        let (name, value) = match self {
            // The date is known only when the response is sent; see `FixedResponse::at`.
            Self::None | Self::Body(_) | Self::DateAfter(_) => return None,
            Self::Milliseconds(ms) => (HeaderName::from_static("retry-after-ms"), ms.to_string()),
            Self::Seconds(seconds) => (RETRY_AFTER, seconds.to_string()),
            Self::Date(date) => (RETRY_AFTER, httpdate::fmt_http_date(*date)),
            Self::Text(text) => (RETRY_AFTER, text.clone()),
        };
        Some((name, HeaderValue::from_str(&value).ok()?))
    }

    /// Adds the `retry-after` hint to the JSON body of a response. Has no effect if the hint is sent in a header instead.
    pub(crate) fn add_to_body(&self, body: &mut Value) {
        if let Self::Body(ms) = self {
            body["retry_after_ms"] = (*ms).into();
        }
    }
}
