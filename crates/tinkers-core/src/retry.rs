//! What an answer leads to: one total table for submissions and polls, and the pauses of repeats.

use std::fmt;
use std::time::{Duration, SystemTime};

use http::StatusCode;

use crate::error::ErrorKind;
use crate::hint::retry_after;
use crate::transport::HttpResponse;

/// What an answer leads to: one table for all requests, in [`Step::of`]. The table is total: every status has its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A success.
    Take,
    /// Refused for the rate (429): the class is held back.
    Refused,
    /// Billing holds the job (402): pause, then send it again.
    PauseForBilling,
    /// The result of a poll is not there yet: poll again.
    NotReady,
    /// The server, or what is in front of it, failed: send it again after a pause, for as long as the caller waits. A submission
    /// is sent again only where that is safe.
    Repeat,
    /// An answer to a poll that may be in passing or final: poll again at most this often, with growing pauses; then it counts. A
    /// poll for one result then fails, a shared poll leaves its waiters to polls of their own.
    Doubt(u32),
    /// Final.
    Fail,
}

/// The two kinds of requests between which the table differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A request that asks the server to do something, or about its state.
    Submission,
    /// A poll for results, one or all of a client. It can be repeated freely, and a final answer loses work that was paid for.
    Poll,
}

/// How often an answer to a poll is doubted that the API itself gave: for 3.5 s, with the usual pauses of failed polls.
pub const FEW_DOUBTS: u32 = 3;
/// How often one is that a proxy or a starting server may have given, or a 500 with a reason: for half a minute.
pub const SOME_DOUBTS: u32 = 6;

impl Step {
    /// The row of the table for an answer. It depends on the status, and on whether the body is empty or has a reason in JSON.
    pub fn of(purpose: Purpose, answer: &HttpResponse) -> Self {
        use Step::{Doubt, Fail, NotReady, PauseForBilling, Refused, Repeat, Take};
        let is_empty = answer.body.is_empty();
        let says_why = || says_why(answer);
        let doubt = || Doubt(if says_why() { FEW_DOUBTS } else { SOME_DOUBTS });
        let (submission, poll) = match answer.status.as_u16() {
            // No content yet.
            202 | 204 if is_empty => (Take, NotReady),
            200..=299 => (Take, Take),
            402 => (PauseForBilling, PauseForBilling),
            408 => (Repeat, NotReady),
            429 => (Refused, Refused),
            // An edge proxy rejects with an empty 400; the API itself always says why.
            400 if is_empty => (Repeat, Repeat),
            // The result is lost, in the API's own words.
            410 if says_why() => (Fail, Fail),
            // 425 is too early: what the request builds on, such as a checkpoint, is still being made.
            425 => (Repeat, Repeat),
            // Some servers say so of an operation that failed.
            500 if says_why() => (Repeat, Doubt(SOME_DOUBTS)),
            501 => (Fail, doubt()),
            500 | 502..=504 | 520..=599 => (Repeat, Repeat),
            505..=519 => (Fail, Repeat),
            _ => (Fail, doubt()),
        };
        match purpose {
            Purpose::Submission => submission,
            Purpose::Poll => poll,
        }
    }
}

/// Whether the body is the error of an API, and no page or bare text of what stands in front of it.
pub fn says_why(answer: &HttpResponse) -> bool {
    answer.body.trim_ascii_start().starts_with(b"{")
        && tinkers_wire::error_text(&answer.body).is_some()
}

/// What is done about an answer to a request that is no poll: the table's step with what its repetition needs.
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
    PauseForBilling {
        /// The least pause, when the server named one.
        hint: Option<Duration>,
    },
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

/// Returns what is done about an answer to a request that is no poll, by the table and `x-should-retry`.
pub fn classify(answer: &HttpResponse, wall: SystemTime) -> Action {
    let status = answer.status;
    let step = Step::of(Purpose::Submission, answer);
    if step == Step::Take {
        return Action::Accept;
    }
    let hint = retry_after(answer, wall);
    let kind = failure_kind(status);
    let should_retry = answer.header("x-should-retry");
    let again = Action::Again {
        hint,
        applied: if invited(status, hint, should_retry) {
            Applied::No
        } else {
            applied(status)
        },
        kind,
    };
    let action = match step {
        Step::Refused => Action::Refused { hint },
        Step::PauseForBilling => Action::PauseForBilling { hint },
        Step::Repeat => again,
        Step::Take | Step::NotReady | Step::Doubt(_) | Step::Fail => Action::Fail(kind),
    };
    match (should_retry, action) {
        (Some("false"), Action::Again { .. } | Action::PauseForBilling { .. }) => {
            Action::Fail(kind)
        }
        (Some("true"), Action::Fail(_)) => again,
        _ => action,
    }
}

/// An overloaded server turns requests away and asks for them again. A proxy gives the same status, bare, when the server went
/// away in the middle of the work.
fn invited(status: StatusCode, hint: Option<Duration>, should_retry: Option<&str>) -> bool {
    status == StatusCode::SERVICE_UNAVAILABLE && (hint.is_some() || should_retry == Some("true"))
}

/// Whether a request that got an answer of this status may have been acted on, as far as the status says.
pub(crate) fn applied(status: StatusCode) -> Applied {
    match status.as_u16() {
        // Somebody's patience ended: the server's own, or a proxy's that had passed the request on.
        408 | 499 => Applied::Maybe,
        // Refused by the server's own word. A 425 promises that nothing was begun (RFC 8470, 5.2).
        400..=499 | 501 => Applied::No,
        _ => Applied::Maybe,
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
    /// A repeat starts only while less than this has passed since the first attempt. Waits for admission and pauses that a refusal
    /// asked for do not count.
    pub window: Duration,
    /// At most this many attempts that got no usable answer; refusals for the rate do not count.
    pub attempts: u32,
    /// What happens when it may have been applied.
    pub when_maybe_applied: WhenMaybeApplied,
    /// A hint is followed this far and no further; `None` follows it whole, or fails when it leads out of the window.
    pub longest_hint: Option<Duration>,
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
        longest_hint: None,
    };

    /// One attempt: for what is repeated by a loop of its own, and for the first contact, where a wrong address should say so.
    pub const ONCE: Self = Self {
        window: Duration::ZERO,
        attempts: 1,
        when_maybe_applied: WhenMaybeApplied::Repeat,
        longest_hint: None,
    };

    /// The same, but a request that may have been applied is not repeated.
    #[must_use]
    pub const fn giving_up_when_maybe_applied(mut self) -> Self {
        self.when_maybe_applied = WhenMaybeApplied::GiveUp;
        self
    }

    /// The same, but a longer hint is followed for `longest` only: for what must go on whatever the server wishes.
    #[must_use]
    pub const fn following_hints_up_to(mut self, longest: Duration) -> Self {
        self.longest_hint = Some(longest);
        self
    }

    /// Whether another attempt may start after `made` attempts and `elapsed` since the first.
    pub fn allows(&self, made: u32, elapsed: Duration) -> bool {
        made < self.attempts && elapsed < self.window
    }
}

/// The least pause before a repeat: 0.5 s doubling to [`LONGEST_PAUSE`], and never below `hint`. To be spread by [`SPREAD`].
pub fn pause(repeat: u32, hint: Option<Duration>) -> Duration {
    const FIRST: Duration = Duration::from_millis(500);
    let usual = FIRST.saturating_mul(1 << repeat.min(6)).min(LONGEST_PAUSE);
    usual.max(hint.unwrap_or(Duration::ZERO))
}

/// How much of a pause is added to it at random, at most.
pub const SPREAD: f64 = 0.25;

/// The longest pause between repeats that no server asked for.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The shared allowance for repeats. An empty one slows repeats to [`LONGEST_PAUSE`]; it never fails one. While a server is away,
/// those few who try whether it is back go without it, and so does everybody once it answers: see [`crate::outage`].
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
            (402, Action::PauseForBilling { hint: None }),
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
            (503, again(Applied::Maybe, K::Server)),
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
    fn each_status_of_a_poll_has_its_step() {
        use Step as S;
        let few = S::Doubt(FEW_DOUBTS);
        let some = S::Doubt(SOME_DOUBTS);
        let reason = r#"{"detail": "no such luck"}"#;
        // Status, and the step for a reason, for an object without one, for a page, and for an empty body.
        let rows = [
            (200, [S::Take; 4]),
            (201, [S::Take; 4]),
            (202, [S::Take, S::Take, S::Take, S::NotReady]),
            (204, [S::Take, S::Take, S::Take, S::NotReady]),
            (302, [few, some, some, some]),
            (400, [few, some, some, S::Repeat]),
            (401, [few, some, some, some]),
            (402, [S::PauseForBilling; 4]),
            (403, [few, some, some, some]),
            (404, [few, some, some, some]),
            (405, [few, some, some, some]),
            (408, [S::NotReady; 4]),
            (409, [few, some, some, some]),
            (410, [S::Fail, some, some, some]),
            (413, [few, some, some, some]),
            (421, [few, some, some, some]),
            (422, [few, some, some, some]),
            (425, [S::Repeat; 4]),
            (429, [S::Refused; 4]),
            (431, [few, some, some, some]),
            (500, [some, S::Repeat, S::Repeat, S::Repeat]),
            (501, [few, some, some, some]),
            (502, [S::Repeat; 4]),
            (503, [S::Repeat; 4]),
            (505, [S::Repeat; 4]),
            (524, [S::Repeat; 4]),
        ];
        for (status, steps) in rows {
            for (body, expected) in [reason, "{}", "<html>", ""].into_iter().zip(steps) {
                let step = Step::of(Purpose::Poll, &answer(status, None, body));
                assert_eq!(step, expected, "{status} {body}");
            }
        }
    }

    #[test]
    fn only_a_success_is_taken_and_a_page_is_never_final() {
        for status in 100..1000 {
            for body in ["", "{}", "oops", "<html>", r#"{"error": "x"}"#] {
                let answer = answer(status, None, body);
                let step = Step::of(Purpose::Poll, &answer);
                if step == Step::Take {
                    assert!((200..300).contains(&status), "{status} {body}");
                }
                let is_final = status == 410 && body.starts_with("{\"");
                assert_eq!(step == Step::Fail, is_final, "{status} {body}");
                let submission = Step::of(Purpose::Submission, &answer);
                assert!(!matches!(submission, Step::NotReady | Step::Doubt(_)));
            }
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
        let decide = |status, should_retry, body| {
            classify(&answer(status, should_retry, body), SystemTime::UNIX_EPOCH)
        };
        for (status, kind) in [
            (402, ErrorKind::Billing),
            (500, ErrorKind::Server),
            (503, ErrorKind::Server),
        ] {
            let forbidden = decide(status, Some("false"), "{}");
            assert_eq!(forbidden, Action::Fail(kind), "{status}");
        }
        // Whether it was applied is the status's to say; only a bare 503 needs the invitation.
        for (status, applied, kind) in [
            (400, Applied::No, ErrorKind::Rejected),
            (408, Applied::Maybe, ErrorKind::Timeout),
            (409, Applied::No, ErrorKind::Conflict),
            (422, Applied::No, ErrorKind::Rejected),
            (500, Applied::Maybe, ErrorKind::Server),
            (501, Applied::No, ErrorKind::Server),
            (503, Applied::No, ErrorKind::Server),
            (504, Applied::Maybe, ErrorKind::Server),
        ] {
            let forced = decide(status, Some("true"), "{}");
            assert_eq!(forced, again(applied, kind), "{status}");
        }
        // A refusal for the rate stays one whatever the header says: it must close the gate.
        for says in ["false", "true"] {
            assert_eq!(decide(429, Some(says), ""), Action::Refused { hint: None });
        }
        let paused = Action::PauseForBilling { hint: None };
        assert_eq!(decide(402, Some("true"), ""), paused);
    }

    #[test]
    fn a_503_proves_that_nothing_was_done_only_when_it_says_when_to_come_back() {
        for (headers, body, expected) in [
            (None, "", Applied::Maybe),
            (
                None,
                "<html>503 Service Temporarily Unavailable</html>",
                Applied::Maybe,
            ),
            (Some(("retry-after", "soon")), "", Applied::Maybe),
            (Some(("x-should-retry", "perhaps")), "", Applied::Maybe),
            (Some(("retry-after", "2")), "", Applied::No),
            (Some(("retry-after-ms", "2")), "", Applied::No),
            (Some(("x-should-retry", "true")), "", Applied::No),
            (None, r#"{"retry_after_ms": 2}"#, Applied::No),
        ] {
            let mut given = answer(503, None, body);
            given.headers.extend(headers.map(|(name, value)| {
                (
                    http::HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            }));
            match classify(&given, SystemTime::UNIX_EPOCH) {
                Action::Again { applied, .. } => {
                    assert_eq!(applied, expected, "{headers:?} {body}")
                }
                other => panic!("{headers:?} {body}: {other:?}"),
            }
        }
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
        let seconds: Vec<f64> = (0..9).map(|n| pause(n, None).as_secs_f64()).collect();
        assert_eq!(seconds, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]);
        let hint = Duration::from_secs(7);
        assert_eq!(pause(0, Some(hint)), hint);
        assert_eq!(pause(6, Some(hint)), LONGEST_PAUSE);
        assert_eq!(pause(u32::MAX, None), LONGEST_PAUSE);
    }
}
