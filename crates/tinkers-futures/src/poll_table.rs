//! The table from an answer of `retrieve_future` to what is done about it.

use std::time::{Duration, SystemTime};

use tinkers_core::hint::retry_after;
use tinkers_core::retry::failure_kind;
use tinkers_core::{ErrorKind, HttpResponse};
use tinkers_wire::{DecodeError, PollAnswer, QueueState};

/// What is done about an answer to a poll.
#[derive(Debug, Clone, PartialEq)]
pub enum PollAction {
    /// A 2xx with one of the forms of the protocol.
    Answer(PollAnswer),
    /// Not ready (408); the queue may be told.
    NotReady {
        /// The state of the server's queue.
        queue_state: Option<QueueState>,
        /// Why, in the server's words.
        reason: Option<String>,
    },
    /// The poll was refused for its rate (429): the poll lane closes, no flight is touched.
    Refused {
        /// When the server said to come back, counted from now.
        hint: Option<Duration>,
    },
    /// The poll failed on its way (5xx, an edge proxy): ask again, for as long as the operation may take.
    Again {
        /// The least pause, when the server named one.
        hint: Option<Duration>,
        /// What it would be as an error.
        kind: ErrorKind,
    },
    /// Some servers say so of an operation that failed, others in passing (400, 404, 422, and a 500 that says why): ask again a
    /// few times.
    AgainFewTimes {
        /// How often.
        times: u32,
        /// What it is when it stays.
        kind: ErrorKind,
    },
    /// Billing holds the job (402).
    PauseForBilling,
    /// The result is lost or cannot be had (410, 401, 403 and the rest).
    Fail(ErrorKind),
    /// A 2xx that is no answer to a poll.
    Unreadable(DecodeError),
}

/// How often an answer that may be final is doubted.
pub(crate) const FEW_TIMES: u32 = 3;
/// How often a 500 is, which is in passing more often: for half a minute, with the pauses of failed polls.
const SOME_TIMES: u32 = 6;

/// The table. Total: every status has its row.
pub fn classify_poll(answer: &HttpResponse, wall: SystemTime) -> PollAction {
    if answer.status.is_success() {
        return match PollAnswer::read(answer.header("content-type"), answer.body.clone()) {
            Ok(read) => PollAction::Answer(read),
            Err(error) => PollAction::Unreadable(error),
        };
    }
    let hint = retry_after(answer, wall);
    let kind = failure_kind(answer.status);
    match answer.status.as_u16() {
        408 => {
            let (queue_state, reason) = PollAnswer::queue_of_timeout(&answer.body);
            PollAction::NotReady {
                queue_state,
                reason,
            }
        }
        429 => PollAction::Refused { hint },
        402 => PollAction::PauseForBilling,
        400 if answer.body.is_empty() => PollAction::Again { hint, kind },
        400 | 404 | 422 => PollAction::AgainFewTimes {
            times: FEW_TIMES,
            kind,
        },
        // The handler had something to say, so it is there, and so is what it speaks of.
        500 if says_why(answer) => PollAction::AgainFewTimes {
            times: SOME_TIMES,
            kind,
        },
        425 | 500..=599 => PollAction::Again { hint, kind },
        _ => PollAction::Fail(kind),
    }
}

/// Whether the body is the error of an API, and no page or bare text of what stands in front of it.
fn says_why(answer: &HttpResponse) -> bool {
    answer.body.starts_with(b"{") && tinkers_wire::error_text(&answer.body).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};

    fn answer(status: u16, body: &'static str) -> HttpResponse {
        let status = StatusCode::from_u16(status).unwrap();
        HttpResponse {
            status,
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    #[test]
    fn each_status_has_its_action() {
        use ErrorKind as K;
        let not_ready = PollAction::NotReady {
            queue_state: None,
            reason: None,
        };
        let again = |kind| PollAction::Again { hint: None, kind };
        let few = |kind| PollAction::AgainFewTimes { times: 3, kind };
        let rows = [
            (302, PollAction::Fail(K::Protocol)),
            (400, few(K::Rejected)),
            (401, PollAction::Fail(K::Authentication)),
            (402, PollAction::PauseForBilling),
            (403, PollAction::Fail(K::PermissionDenied)),
            (404, few(K::NotFound)),
            (408, not_ready),
            (409, PollAction::Fail(K::Conflict)),
            (410, PollAction::Fail(K::ResultLost)),
            (422, few(K::Rejected)),
            (425, again(K::Rejected)),
            (429, PollAction::Refused { hint: None }),
            (500, again(K::Server)),
            (502, again(K::Server)),
            (503, again(K::Server)),
            (504, again(K::Server)),
        ];
        for (status, expected) in rows {
            assert_eq!(
                classify_poll(&answer(status, "{}"), SystemTime::UNIX_EPOCH),
                expected,
                "{status}"
            );
        }
        assert_eq!(
            classify_poll(&answer(400, ""), SystemTime::UNIX_EPOCH),
            again(K::Rejected)
        );
        let says_why = answer(500, r#"{"detail": "out of memory"}"#);
        let few = PollAction::AgainFewTimes {
            times: 6,
            kind: K::Server,
        };
        assert_eq!(classify_poll(&says_why, SystemTime::UNIX_EPOCH), few);
        let bare = answer(500, "Internal Server Error");
        assert_eq!(
            classify_poll(&bare, SystemTime::UNIX_EPOCH),
            again(K::Server)
        );
    }

    #[test]
    fn only_a_success_is_an_answer() {
        for status in 100..1000 {
            for body in ["", "{}", "oops", r#"{"error": "x"}"#] {
                let action = classify_poll(&answer(status, body), SystemTime::UNIX_EPOCH);
                let from_success =
                    matches!(action, PollAction::Answer(_) | PollAction::Unreadable(_));
                assert_eq!(
                    from_success,
                    (200..300).contains(&status),
                    "{status} {body}"
                );
            }
        }
        let unreadable = classify_poll(&answer(200, "<html>"), SystemTime::UNIX_EPOCH);
        assert!(matches!(unreadable, PollAction::Unreadable(_)));
    }

    #[test]
    fn a_408_may_tell_of_the_queue() {
        let action = classify_poll(
            &answer(408, r#"{"queue_state": "paused_capacity"}"#),
            SystemTime::UNIX_EPOCH,
        );
        assert_eq!(
            action,
            PollAction::NotReady {
                queue_state: Some(QueueState::PausedCapacity),
                reason: None
            }
        );
    }
}
