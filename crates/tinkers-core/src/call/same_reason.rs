//! The count of server errors with the same reason, after which a creation is not repeated.

use crate::retry::has_api_error;
use crate::transport::HttpResponse;

/// The reason of the last server error (5xx) of a call, and the number of responses with this reason in a row.
#[derive(Debug, Default)]
pub(super) struct SameReason {
    reason: String,
    count: u32,
}

impl SameReason {
    /// Counts a response. Returns whether the server has stated its reason more often than `limit` allows; `None` allows any number.
    pub(super) fn exceeds(&mut self, limit: Option<u32>, response: &HttpResponse) -> bool {
        let Some(limit) = limit else {
            return false;
        };
        let is_lasting = match response.status.as_u16() {
            500 => true,
            // 503 and 504 are temporary, whatever their reason is.
            501 | 502 | 505..=599 => has_api_error(response),
            _ => false,
        };
        if !is_lasting {
            *self = Self::default();
            return false;
        }
        let reason = tinkers_wire::error_text(&response.body).unwrap_or_default();
        if self.reason != reason {
            *self = Self { reason, count: 0 };
        }
        self.count += 1;
        self.count > limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};

    fn response(status: u16, body: &'static str) -> HttpResponse {
        HttpResponse {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    #[test]
    fn only_lasting_errors_with_the_same_reason_in_a_row_are_limited() {
        let exceeds = |responses: &[(u16, &'static str)]| {
            let mut same = SameReason::default();
            let counted = responses
                .iter()
                .map(|(status, body)| same.exceeds(Some(2), &response(*status, body)));
            counted.last().unwrap()
        };
        let (one, other) = (r#"{"detail": "no disk"}"#, r#"{"detail": "no node"}"#);
        assert!(exceeds(&[(500, one); 3]));
        assert!(exceeds(&[(500, "Internal Server Error"); 3]));
        assert!(!exceeds(&[(500, one); 2]));
        assert!(!exceeds(&[(500, one), (500, one), (500, other)]));
        assert!(!exceeds(&[(500, one), (503, one), (500, one), (500, one)]));
        assert!(!exceeds(&[(503, one); 9]));
        assert!(!exceeds(&[(502, "<html>Bad Gateway</html>"); 9]));
        assert!(!SameReason::default().exceeds(None, &response(500, one)));
    }
}
