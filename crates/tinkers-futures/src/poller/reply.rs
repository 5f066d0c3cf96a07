//! The table from an answer of `retrieve_futures` to what is done about it.

use std::time::{Duration, SystemTime};

use tinkers_core::hint::retry_after;
use tinkers_core::retry::failure_kind;
use tinkers_core::{ErrorKind, HttpResponse};
use tinkers_wire::{Completions, DecodeError};

/// What is done about an answer.
#[derive(Debug, PartialEq)]
pub(super) enum Reply {
    /// What has ended.
    Told(Completions),
    /// Nothing has (408).
    Nothing,
    /// Refused for the rate (429).
    Refused(Option<Duration>),
    /// Billing holds the job (402).
    PauseForBilling,
    /// Ask again, no sooner than the server says.
    Again(Option<Duration>),
    /// Ask again a few times.
    AgainFewTimes(ErrorKind),
    /// A success that is no answer to a poll: ask again a few times, since a proxy may have made it.
    Unreadable(DecodeError),
    /// There is no use in asking.
    Fail(ErrorKind),
}

/// The table. Total: every status has its row.
pub(super) fn classify(answer: &HttpResponse, wall: SystemTime) -> Reply {
    if answer.status.is_success() {
        return match Completions::read(&answer.body) {
            Ok(completions) => Reply::Told(completions),
            Err(error) => Reply::Unreadable(error),
        };
    }
    let hint = retry_after(answer, wall);
    match answer.status.as_u16() {
        402 => Reply::PauseForBilling,
        408 => Reply::Nothing,
        429 => Reply::Refused(hint),
        400 if answer.body.is_empty() => Reply::Again(hint),
        400 => Reply::AgainFewTimes(ErrorKind::Rejected),
        409 | 425 | 500..=599 => Reply::Again(hint),
        _ => Reply::Fail(failure_kind(answer.status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};

    fn reply(status: u16, body: &'static str) -> Reply {
        let answer = HttpResponse {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
        };
        classify(&answer, SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn each_status_has_its_reply() {
        use ErrorKind as K;
        for (status, expected) in [
            (302, Reply::Fail(K::Protocol)),
            (400, Reply::AgainFewTimes(K::Rejected)),
            (401, Reply::Fail(K::Authentication)),
            (402, Reply::PauseForBilling),
            (403, Reply::Fail(K::PermissionDenied)),
            (404, Reply::Fail(K::NotFound)),
            (405, Reply::Fail(K::NotFound)),
            (408, Reply::Nothing),
            (409, Reply::Again(None)),
            (410, Reply::Fail(K::ResultLost)),
            (422, Reply::Fail(K::Rejected)),
            (425, Reply::Again(None)),
            (429, Reply::Refused(None)),
            (500, Reply::Again(None)),
            (503, Reply::Again(None)),
        ] {
            assert_eq!(reply(status, "{}"), expected, "{status}");
        }
        assert_eq!(reply(400, ""), Reply::Again(None));
        assert_eq!(
            reply(503, r#"{"retry_after_ms": 1500}"#),
            Reply::Again(Some(Duration::from_millis(1500)))
        );
    }

    #[test]
    fn only_a_success_tells_anything() {
        for status in 100..1000 {
            for body in ["", "oops", r#"{"completions": [], "cursor": 3}"#] {
                let told = matches!(reply(status, body), Reply::Told(_) | Reply::Unreadable(_));
                assert_eq!(told, (200..300).contains(&status), "{status} {body}");
            }
        }
        assert!(matches!(reply(200, "<html>"), Reply::Unreadable(_)));
    }
}
