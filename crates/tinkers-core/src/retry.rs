//! From an answer to what is done about it: one total table, and the paces of repeats.

use std::fmt;
use std::time::{Duration, SystemTime};

use http::StatusCode;

use crate::error::ErrorKind;
use crate::hint::retry_after;
use crate::jitter::Jitter;
use crate::transport::HttpResponse;

/// What is done about an answer to a request that is no poll. Polls have a table of their own in `tinkers-futures`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Take it.
    Accept,
    /// Refused for the rate: hold back as long as `hint` says, then ask for admission again.
    Refused {
        /// When the server said to come back, counted from now.
        hint: Option<Duration>,
    },
    /// Send it again after a pause, if that is safe.
    Again {
        /// The least pause, when the server named one.
        hint: Option<Duration>,
        /// Whether the server may have acted on this attempt.
        applied: Applied,
        /// What it fails with when no attempt is left.
        kind: ErrorKind,
    },
    /// Billing holds the job: pause, then send it again.
    PauseForBilling,
    /// Give it to the caller.
    Fail(ErrorKind),
}

/// Whether a server may have acted on a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It said that it did not, or it could not have.
    No,
    /// Nobody knows.
    Maybe,
}

/// The table from (status, headers, body) to action.
pub fn classify(answer: &HttpResponse, wall: SystemTime) -> Action {
    let status = answer.status;
    if status.is_success() {
        return Action::Accept;
    }
    let hint = retry_after(answer, wall);
    let kind = failure_kind(status);
    match answer.header("x-should-retry") {
        Some("false") if status != StatusCode::TOO_MANY_REQUESTS => return Action::Fail(kind),
        Some("true") if status != StatusCode::TOO_MANY_REQUESTS => {
            return Action::Again {
                hint,
                applied: Applied::Maybe,
                kind,
            };
        }
        _ => {}
    }
    match status.as_u16() {
        429 => Action::Refused { hint },
        402 => Action::PauseForBilling,
        // An edge proxy rejects with an empty 400; the API itself always says why.
        400 if answer.body.is_empty() => Action::Again {
            hint,
            applied: Applied::No,
            kind,
        },
        // Too early: what the request builds on, such as a checkpoint, is still being made.
        425 | 503 => Action::Again {
            hint,
            applied: Applied::No,
            kind,
        },
        408 | 500 | 502 | 504 | 520..=599 => Action::Again {
            hint,
            applied: Applied::Maybe,
            kind,
        },
        _ => Action::Fail(kind),
    }
}

/// The kind of error that a status means when it reaches the caller.
pub fn failure_kind(status: StatusCode) -> ErrorKind {
    match status.as_u16() {
        401 => ErrorKind::Authentication,
        402 => ErrorKind::Billing,
        403 => ErrorKind::PermissionDenied,
        404 | 405 => ErrorKind::NotFound,
        408 => ErrorKind::Timeout,
        409 => ErrorKind::Conflict,
        410 => ErrorKind::ResultLost,
        429 => ErrorKind::RateLimited,
        400..=499 => ErrorKind::Rejected,
        500..=599 => ErrorKind::Server,
        _ => ErrorKind::Protocol,
    }
}

/// How often and how long a request is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// A repeat starts only while less than this has passed since the first attempt.
    pub window: Duration,
    /// At most this many attempts that got no usable answer; refusals for the rate do not count.
    pub attempts: u32,
    /// What happens when it may have been applied.
    pub when_maybe_applied: WhenMaybeApplied,
}

/// What happens to a request that may have been applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenMaybeApplied {
    /// Send it again: the server applies it once, or twice does no harm.
    Repeat,
    /// Fail with `OutcomeUnknown`.
    GiveUp,
}

impl Policy {
    /// Repeats for five minutes, the window of the official SDK.
    pub const PATIENT: Self = Self {
        window: Duration::from_secs(300),
        attempts: u32::MAX,
        when_maybe_applied: WhenMaybeApplied::Repeat,
    };

    /// One attempt: for what is repeated by a loop of its own, and for the first contact, where a wrong address should say so.
    pub const ONCE: Self = Self {
        window: Duration::ZERO,
        attempts: 1,
        when_maybe_applied: WhenMaybeApplied::Repeat,
    };

    /// The same, but a request that may have been applied is not repeated.
    #[must_use]
    pub const fn giving_up_when_maybe_applied(mut self) -> Self {
        self.when_maybe_applied = WhenMaybeApplied::GiveUp;
        self
    }

    /// Whether another attempt may start after `made` attempts and `elapsed` since the first.
    pub fn allows(&self, made: u32, elapsed: Duration) -> bool {
        made < self.attempts && elapsed < self.window
    }
}

/// An exponential pause between repeats: 0.5 s doubling to 30 s, plus up to a quarter. Never below `hint`.
pub fn pause(repeat: u32, hint: Option<Duration>, jitter: &dyn Jitter) -> Duration {
    const FIRST: Duration = Duration::from_millis(500);
    let base = FIRST.saturating_mul(1 << repeat.min(6)).min(LONGEST_PAUSE);
    jitter.stretch(base.max(hint.unwrap_or(Duration::ZERO)), 0.25)
}

/// The longest pause between repeats that no server asked for.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The shared allowance for repeats. An empty one slows repeats to [`LONGEST_PAUSE`]; it never fails one.
pub trait RetryBudget: Send + Sync + fmt::Debug + 'static {
    /// Takes the cost of one repeat after `kind`.
    fn draw(&self, kind: ErrorKind) -> Draw;

    /// Gives a little back after a success.
    fn credit(&self);
}

/// What the budget says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draw {
    /// Go on at the usual pace.
    Granted,
    /// Repeat at the longest pause.
    Empty,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jitter::FixedJitter;
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue};

    fn answer(status: u16, should_retry: Option<&'static str>, body: &'static str) -> HttpResponse {
        let mut headers = HeaderMap::new();
        if let Some(value) = should_retry {
            headers.insert("x-should-retry", HeaderValue::from_static(value));
        }
        let status = StatusCode::from_u16(status).unwrap();
        HttpResponse {
            status,
            headers,
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    fn again(applied: Applied, kind: ErrorKind) -> Action {
        Action::Again {
            hint: None,
            applied,
            kind,
        }
    }

    #[test]
    fn each_status_has_its_action() {
        use ErrorKind as K;
        let rows = [
            (200, Action::Accept),
            (201, Action::Accept),
            (204, Action::Accept),
            (302, Action::Fail(K::Protocol)),
            (400, Action::Fail(K::Rejected)),
            (401, Action::Fail(K::Authentication)),
            (402, Action::PauseForBilling),
            (403, Action::Fail(K::PermissionDenied)),
            (404, Action::Fail(K::NotFound)),
            (405, Action::Fail(K::NotFound)),
            (408, again(Applied::Maybe, K::Timeout)),
            (409, Action::Fail(K::Conflict)),
            (410, Action::Fail(K::ResultLost)),
            (415, Action::Fail(K::Rejected)),
            (422, Action::Fail(K::Rejected)),
            (425, again(Applied::No, K::Rejected)),
            (429, Action::Refused { hint: None }),
            (500, again(Applied::Maybe, K::Server)),
            (501, Action::Fail(K::Server)),
            (502, again(Applied::Maybe, K::Server)),
            (503, again(Applied::No, K::Server)),
            (504, again(Applied::Maybe, K::Server)),
            (524, again(Applied::Maybe, K::Server)),
        ];
        for (status, expected) in rows {
            assert_eq!(
                classify(&answer(status, None, "{}"), SystemTime::UNIX_EPOCH),
                expected,
                "{status}"
            );
        }
    }

    #[test]
    fn the_table_is_total_and_never_accepts_a_failure() {
        for status in 100..1000 {
            for should_retry in [None, Some("true"), Some("false"), Some("perhaps")] {
                for body in ["", "{}", "oops"] {
                    let action =
                        classify(&answer(status, should_retry, body), SystemTime::UNIX_EPOCH);
                    assert_eq!(
                        action == Action::Accept,
                        (200..300).contains(&status),
                        "{status}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_server_may_force_or_forbid_a_repeat() {
        assert_eq!(
            classify(&answer(500, Some("false"), ""), SystemTime::UNIX_EPOCH),
            Action::Fail(ErrorKind::Server)
        );
        assert_eq!(
            classify(&answer(422, Some("true"), ""), SystemTime::UNIX_EPOCH),
            again(Applied::Maybe, ErrorKind::Rejected)
        );
        // A refusal for the rate stays one whatever the header says: it must close the gate.
        assert_eq!(
            classify(&answer(429, Some("false"), ""), SystemTime::UNIX_EPOCH),
            Action::Refused { hint: None }
        );
    }

    #[test]
    fn an_empty_400_comes_from_a_proxy() {
        assert_eq!(
            classify(&answer(400, None, ""), SystemTime::UNIX_EPOCH),
            again(Applied::No, ErrorKind::Rejected)
        );
    }

    #[test]
    fn pauses_grow_to_the_cap_and_never_undercut_a_hint() {
        let jitter = FixedJitter(0.0);
        let seconds: Vec<f64> = (0..9)
            .map(|n| pause(n, None, &jitter).as_secs_f64())
            .collect();
        assert_eq!(seconds, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]);
        assert_eq!(
            pause(0, Some(Duration::from_secs(7)), &jitter),
            Duration::from_secs(7)
        );
        assert_eq!(pause(u32::MAX, None, &FixedJitter(1.0)).as_secs(), 37);
    }
}
