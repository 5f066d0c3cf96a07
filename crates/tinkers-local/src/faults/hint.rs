//! The retry hint of a 429 response.

use std::time::{Duration, SystemTime};

use http::HeaderValue;
use http::header::{HeaderName, RETRY_AFTER};
use serde_json::Value;

/// The retry hint of a 429 response: its form and value.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Hint {
    /// No hint.
    None,
    /// `retry-after-ms` with this number of milliseconds.
    Milliseconds(u64),
    /// `Retry-After` with this number of seconds.
    Seconds(u64),
    /// `Retry-After` with this date.
    Date(SystemTime),
    /// `Retry-After` with the date this long after the response, rounded up to a whole second.
    DateAfter(Duration),
    /// `retry_after_ms` in the body with this number of milliseconds.
    Body(u64),
    /// `Retry-After` with this text, which may be invalid.
    Text(String),
}

impl Hint {
    /// Returns the date `after` later than `wall`, rounded up to a whole second.
    pub(crate) fn date_after(after: Duration, wall: SystemTime) -> Self {
        let now = wall
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let at = now.saturating_add(after);
        let second = at.as_secs() + u64::from(at.subsec_nanos() > 0);
        Self::Date(SystemTime::UNIX_EPOCH + Duration::from_secs(second))
    }

    /// Returns the header of the hint; `None` if it has none or the value is not valid in a header.
    pub(crate) fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        let (name, value) = match self {
            // The date is known only when the response is sent; see `FixedResponse::at`.
            Self::None | Self::Body(_) | Self::DateAfter(_) => return None,
            Self::Milliseconds(ms) => (HeaderName::from_static("retry-after-ms"), ms.to_string()),
            Self::Seconds(seconds) => (RETRY_AFTER, seconds.to_string()),
            Self::Date(date) => (RETRY_AFTER, crate::protocol::http_date(*date)),
            Self::Text(text) => (RETRY_AFTER, text.clone()),
        };
        Some((name, HeaderValue::from_str(&value).ok()?))
    }

    /// Adds the hint to the JSON body of a response, if it belongs there.
    pub(crate) fn add_to_body(&self, body: &mut Value) {
        if let Self::Body(ms) = self {
            body["retry_after_ms"] = (*ms).into();
        }
    }
}
