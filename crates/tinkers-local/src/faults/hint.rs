//! How a 429 says when to come back.

use std::time::{Duration, SystemTime};

use http::HeaderValue;
use http::header::{HeaderName, RETRY_AFTER};
use serde_json::Value;

/// How a 429 says when to come back.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Hint {
    /// It does not.
    None,
    /// `retry-after-ms`.
    Milliseconds(u64),
    /// `Retry-After` in seconds.
    Seconds(u64),
    /// `Retry-After` as a date.
    Date(SystemTime),
    /// `Retry-After` as the date so long after the answer, rounded up to a whole second.
    DateAfter(Duration),
    /// `retry_after_ms` in the body.
    Body(u64),
    /// `Retry-After` with this text, such as one that cannot be read.
    Text(String),
}

impl Hint {
    /// The date so long after `wall`, as a whole second that is not before it.
    pub(crate) fn date_after(after: Duration, wall: SystemTime) -> Self {
        let now = wall
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let at = now.saturating_add(after);
        let second = at.as_secs() + u64::from(at.subsec_nanos() > 0);
        Self::Date(SystemTime::UNIX_EPOCH + Duration::from_secs(second))
    }

    /// The header that carries it, where one does and its value fits into one.
    pub(crate) fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        let (name, value) = match self {
            // A date that is not known yet is written where it is.
            Self::None | Self::Body(_) | Self::DateAfter(_) => return None,
            Self::Milliseconds(ms) => (HeaderName::from_static("retry-after-ms"), ms.to_string()),
            Self::Seconds(seconds) => (RETRY_AFTER, seconds.to_string()),
            Self::Date(date) => (RETRY_AFTER, crate::protocol::http_date(*date)),
            Self::Text(text) => (RETRY_AFTER, text.clone()),
        };
        Some((name, HeaderValue::from_str(&value).ok()?))
    }

    /// Writes it into the JSON body of an answer, where that carries it.
    pub(crate) fn add_to_body(&self, body: &mut Value) {
        if let Self::Body(ms) = self {
            body["retry_after_ms"] = (*ms).into();
        }
    }
}
