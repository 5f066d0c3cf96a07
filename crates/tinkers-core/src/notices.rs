//! Logging of deprecation notices, each text once.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use crate::response::HttpResponse;
use crate::user_code::catch_panic;

/// The deprecation notices of an endpoint that were logged already, so that each is logged only once.
#[derive(Debug, Default)]
pub struct DeprecationNotices(Mutex<BTreeSet<String>>);

/// The maximum number of deprecation notices that are logged. It bounds the log and the memory if a server sends ever new texts.
const MAX_NOTICES: usize = 64;

impl DeprecationNotices {
    /// Logs the deprecation notice of a response, if there is one that was not logged before. Returns whether a notice was logged.
    pub fn log(&self, response: &HttpResponse) -> bool {
        let Some(note) = response.header("x-deprecation-note") else {
            return false;
        };
        {
            let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if logged.contains(note) || logged.len() >= MAX_NOTICES {
                return false;
            }
            logged.insert(note.to_owned());
        }
        let level = response.header("x-deprecation-level");
        // A panic of a log subscriber would lose the response.
        if level.is_some_and(|level| level.eq_ignore_ascii_case("error")) {
            catch_panic(|| tracing::error!(note, "deprecation notice"));
        } else {
            catch_panic(|| tracing::warn!(note, "deprecation notice"));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, StatusCode};

    fn response(note: Option<&str>) -> HttpResponse {
        let mut headers = HeaderMap::new();
        if let Some(note) = note {
            headers.insert("x-deprecation-note", HeaderValue::from_str(note).unwrap());
        }
        HttpResponse {
            status: StatusCode::OK,
            headers,
            body: Bytes::new(),
        }
    }

    #[test]
    fn each_deprecation_notice_is_logged_once_up_to_a_maximum() {
        let notices = DeprecationNotices::default();
        assert!(!notices.log(&response(None)));
        assert!(notices.log(&response(Some("asample goes in May"))));
        assert!(!notices.log(&response(Some("asample goes in May"))));
        assert!(notices.log(&response(Some("asample goes in June"))));
        let logged = (0..1000).filter(|n| notices.log(&response(Some(&n.to_string()))));
        assert_eq!(logged.count(), MAX_NOTICES - 2);
    }
}
