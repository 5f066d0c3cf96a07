//! What a server says of routes and releases that will go: each text once, however many answers bear it.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use crate::contain::contain;
use crate::transport::HttpResponse;

/// The deprecation notices that were logged, of all that is sent to an endpoint.
#[derive(Debug, Default)]
pub struct DeprecationNotices(Mutex<BTreeSet<String>>);

/// Texts beyond so many are not logged: a server that never says the same twice would fill log and memory.
const MOST: usize = 64;

impl DeprecationNotices {
    /// Logs what `answer` says, unless it was logged already. Whether it was logged now.
    pub fn look(&self, answer: &HttpResponse) -> bool {
        let Some(note) = answer.header("x-deprecation-note") else {
            return false;
        };
        {
            let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if told.contains(note) || told.len() >= MOST {
                return false;
            }
            told.insert(note.to_owned());
        }
        let level = answer.header("x-deprecation-level");
        // A panic would keep the answer from who waits for it.
        if level.is_some_and(|level| level.eq_ignore_ascii_case("error")) {
            contain(|| tracing::error!(note, "deprecation notice"));
        } else {
            contain(|| tracing::warn!(note, "deprecation notice"));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, StatusCode};

    fn answer(note: Option<&str>) -> HttpResponse {
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
    fn each_text_is_told_once_and_no_more_than_a_few() {
        let notices = DeprecationNotices::default();
        assert!(!notices.look(&answer(None)));
        assert!(notices.look(&answer(Some("asample goes in May"))));
        assert!(!notices.look(&answer(Some("asample goes in May"))));
        assert!(notices.look(&answer(Some("asample goes in June"))));
        let told = (0..1000).filter(|n| notices.look(&answer(Some(&n.to_string()))));
        assert_eq!(told.count(), MOST - 2);
    }
}
