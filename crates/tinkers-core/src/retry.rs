//! The action for each response: one table for submissions and polls that covers every status, and the retry policy of a call.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use tinkers_limits::RetryReason;

use crate::backoff::Backoff;
use crate::error::{Error, ErrorKind, Sent};
use crate::hint::retry_after;
use crate::response::HttpResponse;

/// What the client does after a response, depending on the status and body of the response. [`StatusAction::of`] has an action for every
/// status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "callers handle each action")]
pub enum StatusAction {
    /// Treat the response as a success.
    Take,
    /// Treat the request as rate limited (429). All requests of the same route class then wait for the server's retry delay.
    Refused,
    /// Pause, since the server requires payment (402), then send the request again.
    PauseForBilling,
    /// Poll again, since the result is not ready.
    NotReady,
    /// Send the request again after a pause, until the caller's deadline, since the server or a proxy failed. A submission is sent
    /// again only where that is safe.
    Repeat,
    /// Poll again at most this many times with growing pauses, since the error may be temporary or final. After that, treat the error as
    /// final. If it was a poll for one result, that operation fails. If it was a shared poll for many results, each waiting operation polls
    /// for its own result.
    RetryUpTo(u32),
    /// Fail, since a retry cannot change the response.
    Fail,
}

/// The kind of a request: a submission or a poll. The action after a response depends on this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the retry table covers each kind")]
pub enum ExchangeKind {
    /// A request that submits work, or asks for the state of the server.
    Submission,
    /// A poll for one or more results. A poll may be repeated freely, but if it wrongly counts as failed, a result that was paid for is
    /// lost.
    Poll,
}

/// The maximum number of retries of a poll after an error that the API itself reports. With the usual pauses, the retries take 3.5 s in
/// all.
pub const API_ERROR_RETRIES: u32 = 3;
/// The maximum number of retries of a poll after an error that a proxy or a starting server may have sent, or after a 500 response whose
/// body gives a reason. With the usual pauses, the retries take about 30 s in all.
pub const PROXY_ERROR_RETRIES: u32 = 6;

/// The maximum number of retries of a creation after server errors with the same reason, which a further retry will not change.
pub const SAME_REASONS: u32 = 2;

impl StatusAction {
    /// Returns what the client does after a response. This depends on the status, and on whether the body is empty or contains a reason in
    /// JSON.
    pub fn of(kind: ExchangeKind, response: &HttpResponse) -> Self {
        use StatusAction::{Fail, NotReady, PauseForBilling, Refused, Repeat, RetryUpTo, Take};
        let is_empty = response.body.is_empty();
        let has_reason = || has_api_error(response);
        let retry_poll = || {
            RetryUpTo(if has_reason() {
                API_ERROR_RETRIES
            } else {
                PROXY_ERROR_RETRIES
            })
        };
        let (submission, poll) = match response.status.as_u16() {
            // There is no content yet.
            202 | 204 if is_empty => (Take, NotReady),
            200..=299 => (Take, Take),
            402 => (PauseForBilling, PauseForBilling),
            408 => (Repeat, NotReady),
            429 => (Refused, Refused),
            // Some servers do not know a request until it has a result.
            404 if kind == ExchangeKind::Poll && tinkers_wire::says_not_ready(&response.body) => {
                (Fail, NotReady)
            }
            // An edge proxy rejects a request with an empty 400. The API itself always gives a reason.
            400 if is_empty => (Repeat, Repeat),
            // The API itself reports that the result is lost.
            410 if has_reason() => (Fail, Fail),
            // Too early: an input of the request, such as a checkpoint, is not complete yet.
            425 => (Repeat, Repeat),
            // Some servers report a failed operation with this response.
            500 if has_reason() => (Repeat, RetryUpTo(PROXY_ERROR_RETRIES)),
            501 => (Fail, retry_poll()),
            500 | 502..=504 | 520..=599 => (Repeat, Repeat),
            505..=519 => (Fail, Repeat),
            _ => (Fail, retry_poll()),
        };
        match kind {
            ExchangeKind::Submission => submission,
            ExchangeKind::Poll => poll,
        }
    }
}

/// Returns whether servers respond with this status to requests for a route that they do not have, or do not allow. The client then proceeds as
/// if the server did not have the optional route.
pub const fn is_missing_route(status: u16) -> bool {
    matches!(status, 400 | 403 | 404 | 405 | 410 | 411 | 415 | 422 | 501)
}

/// Returns whether the response body is an error in the format of the API, and not an HTML page or plain text of a proxy.
pub(crate) fn has_api_error(response: &HttpResponse) -> bool {
    response.body.trim_ascii_start().starts_with(b"{")
        && tinkers_wire::error_text(&response.body).is_some()
}

/// What the client does after a response to a submission, with the data that a retry needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "callers handle each action")]
pub enum RetryAction {
    /// Treat the response as a success.
    Accept,
    /// The server refused the request with 429: wait for the server's retry delay, then ask the rate limiter for admission again.
    Refused {
        /// The server's retry delay, counted from now. `None` if the response contains none.
        hint: Option<Duration>,
    },
    /// Send the request again after a pause, if that is safe.
    Again {
        /// The server's retry delay, if the response contains one. The pause before the retry is at least this long.
        hint: Option<Duration>,
        /// Whether the server may have applied this attempt. If it may have, the request is sent again only where that is safe.
        applied: Applied,
        /// The kind of the error that the call returns if it may not be retried any more.
        kind: ErrorKind,
    },
    /// Pause, since the server requires payment, then send the request again.
    PauseForBilling {
        /// The server's retry delay, if the response contains one. The pause before the retry is at least this long.
        hint: Option<Duration>,
    },
    /// Return an error of this kind to the caller.
    Fail(ErrorKind),
}

/// Whether a server may have applied a request, so that sending the request again may apply it twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "callers handle each case")]
pub enum Applied {
    /// The server did not apply the request.
    No,
    /// The server may have applied the request.
    Maybe,
}

/// Returns what the client does after a response to a submission. This depends on the status, the body and the header `x-should-retry`.
pub fn classify(response: &HttpResponse, wall: SystemTime) -> RetryAction {
    let status = response.status;
    let by_status = StatusAction::of(ExchangeKind::Submission, response);
    if by_status == StatusAction::Take {
        return RetryAction::Accept;
    }
    let hint = retry_after(response, wall);
    let kind = failure_kind(status);
    let should_retry = response.header("x-should-retry");
    let again = RetryAction::Again {
        hint,
        applied: if invites_retry(status, hint, should_retry) {
            Applied::No
        } else {
            applied(status)
        },
        kind,
    };
    let action = match by_status {
        StatusAction::Refused => RetryAction::Refused { hint },
        StatusAction::PauseForBilling => RetryAction::PauseForBilling { hint },
        StatusAction::Repeat => again,
        StatusAction::Take
        | StatusAction::NotReady
        | StatusAction::RetryUpTo(_)
        | StatusAction::Fail => RetryAction::Fail(kind),
    };
    match (should_retry, action) {
        (Some("false"), RetryAction::Again { .. } | RetryAction::PauseForBilling { .. }) => {
            RetryAction::Fail(kind)
        }
        (Some("true"), RetryAction::Fail(_)) => again,
        _ => action,
    }
}

/// Returns whether a response says that an overloaded server rejected the request unprocessed and wants it to be sent again. A 503 response
/// that does not say so may come from a proxy that lost its server while the server processed the request.
fn invites_retry(status: StatusCode, hint: Option<Duration>, should_retry: Option<&str>) -> bool {
    status == StatusCode::SERVICE_UNAVAILABLE && (hint.is_some() || should_retry == Some("true"))
}

/// Returns whether a request with a response of this status may have been applied.
pub(crate) fn applied(status: StatusCode) -> Applied {
    match status.as_u16() {
        // The server timed out, or a proxy that had forwarded the request.
        408 | 499 => Applied::Maybe,
        // The server itself rejected the request. For 425, RFC 8470 (5.2) guarantees that the server began nothing.
        400..=499 | 501 => Applied::No,
        _ => Applied::Maybe,
    }
}

/// Returns the kind of the error that the caller gets for this status.
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

/// Returns whether an error of an optional request, such as that for the configuration, may mean that the server lacks the route, or that the
/// route does not work there. Servers without a route respond with different statuses, with an HTML page, or not at all.
pub fn may_lack_route(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Protocol => true,
        ErrorKind::Timeout => error.sent() == Sent::MaybeSent,
        _ => error
            .status()
            .is_some_and(|status| status == 500 || is_missing_route(status)),
    }
}

/// How the client retries its requests: the maximum number of attempts, the time in which retries may start, and the pauses between them.
///
/// The default retries for as long as a retry can be useful: a training call until its progress deadline, every other request for five
/// minutes, with pauses that grow from 0.5 s to 30 s.
///
/// Whatever the policy, a request is sent again only where that is safe: a training call that the server may have applied is sent again
/// only if the server is known to deduplicate repeated calls.
///
/// The policy does not apply to polls for results. Polls are repeated until the operation makes no progress for its progress deadline. It
/// does not apply to responses with status 429 or 402 either: such a request was not processed, and waits until the server accepts requests
/// again. To limit the time for polls and for such waits, set an operation deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// The maximum number of attempts of a request, at least 1. Unlimited by default.
    pub max_attempts: u32,
    /// How long after the first attempt a retry may still start. Waits for admission and pauses that a rate-limited response asked for do
    /// not count. `None`, the default, is five minutes, and for training calls the progress deadline if that is longer.
    pub window: Option<Duration>,
    /// The pauses before retries. Up to a quarter of each pause is added at random. A longer pause that the server asked for takes
    /// precedence. From 0.5 s to 30 s by default.
    pub backoff: Backoff,
    /// Whether the retries of all clients of the same server and API key share a retry budget. When many requests fail, the budget is
    /// empty, and each retry waits for the longest pause of the backoff. True by default.
    pub has_budget: bool,
}

impl RetryPolicy {
    /// Returns the default retry policy: unlimited attempts, with pauses from 0.5 s to 30 s.
    pub const fn new() -> Self {
        Self {
            max_attempts: u32::MAX,
            window: None,
            backoff: BACKOFF,
            has_budget: true,
        }
    }

    /// Returns the retry policy without retries: each request has one attempt.
    pub const fn none() -> Self {
        Self::new().with_max_attempts(1)
    }

    /// Sets the maximum number of attempts of a request, at least 1.
    #[must_use]
    pub const fn with_max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Sets how long after the first attempt a retry may still start.
    #[must_use]
    pub const fn with_window(mut self, window: Duration) -> Self {
        self.window = Some(window);
        self
    }

    /// Sets the pause before the first retry, which doubles with each further retry, and the longest pause.
    #[must_use]
    pub const fn with_backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.backoff = Backoff::new(first, longest);
        self
    }

    /// Turns off the shared retry budget: retries then follow the backoff, however many requests fail.
    #[must_use]
    pub const fn without_budget(mut self) -> Self {
        self.has_budget = false;
        self
    }

    /// Checks that the values of all fields are valid.
    ///
    /// # Errors
    /// `InvalidInput` with the name of the invalid field.
    pub fn check(&self) -> Result<(), Error> {
        if self.max_attempts == 0 {
            return Err(Error::invalid(
                "retry_policy.max_attempts",
                "at least 1, got 0",
            ));
        }
        let (first, longest) = (self.backoff.pause(0), self.backoff.longest());
        if first.is_zero() || first < self.backoff.first() {
            return Err(Error::invalid(
                "retry_policy.backoff",
                format!(
                    "a first pause above zero and not above the longest pause, got {:?} and {longest:?}",
                    self.backoff.first()
                ),
            ));
        }
        Ok(())
    }

    /// Returns whether another attempt of a call with `policy` may start. `made` is the number of attempts so far, and `elapsed` the time
    /// since the first attempt.
    pub(crate) fn allows(&self, policy: &CallPolicy, made: u32, elapsed: Duration) -> bool {
        made < self.max_attempts.min(policy.attempts) && elapsed < self.window(policy)
    }

    /// Returns how long after the first attempt a retry of a call with `policy` may still start.
    pub(crate) fn window(&self, policy: &CallPolicy) -> Duration {
        self.window.unwrap_or(policy.window)
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::new()
    }
}

/// How often and for how long one call is retried. The client's [`RetryPolicy`] may limit this further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallPolicy {
    /// How long after the first attempt a retry may still start, unless the client's policy sets another time. Waits for admission and
    /// pauses that a rate-limited response asked for do not count.
    pub window: Duration,
    /// The maximum number of attempts of the call, not counting rate-limited responses. The client's policy may set a lower number.
    pub attempts: u32,
    /// What the call does after a failed attempt that the server may have applied.
    pub when_maybe_applied: WhenMaybeApplied,
    /// The longest pause that the server's retry delay may cause; a longer delay is cut. With `None` the client waits for the whole delay,
    /// or fails if no retry may start as late as that.
    pub longest_hint: Option<Duration>,
}

/// What a call does after a failed attempt that the server may have applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there are two policies")]
pub enum WhenMaybeApplied {
    /// Send the request again, since the server deduplicates it, or applying it twice is harmless.
    Repeat,
    /// Fail with `OutcomeUnknown`, since applying the request twice would do harm.
    GiveUp,
}

impl CallPolicy {
    /// A policy that retries for five minutes, as long as the official SDK.
    pub const PATIENT: Self = Self {
        window: Duration::from_secs(300),
        attempts: u32::MAX,
        when_maybe_applied: WhenMaybeApplied::Repeat,
        longest_hint: None,
    };

    /// A policy with one attempt. For requests that a loop of the caller repeats, and for the first request of a client, which should fail
    /// at once if the address is wrong.
    pub const ONCE: Self = Self {
        window: Duration::ZERO,
        attempts: 1,
        when_maybe_applied: WhenMaybeApplied::Repeat,
        longest_hint: None,
    };

    /// Returns this policy, changed so that a call is not retried after a failed attempt that the server may have applied. The call then
    /// fails with `OutcomeUnknown`.
    #[must_use]
    pub const fn giving_up_when_maybe_applied(mut self) -> Self {
        self.when_maybe_applied = WhenMaybeApplied::GiveUp;
        self
    }

    /// Returns this policy, changed so that the server's retry delay causes a pause of at most `longest`. For requests that a server must
    /// not be able to delay for long.
    #[must_use]
    pub const fn following_hints_up_to(mut self, longest: Duration) -> Self {
        self.longest_hint = Some(longest);
        self
    }
}

/// The default of the longest pause between retries, if the server sends no retry delay.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The default pauses between retries: 0.5 s before the first retry, then doubling up to 30 s. Up to [`SPREAD`] of a pause is added at
/// random.
pub const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), LONGEST_PAUSE);

/// The maximum jitter that is added to a pause between retries, as a fraction of the pause.
pub const SPREAD: f64 = 0.25;

/// Returns the reason for a retry after an error of `kind`. The number of tokens that the retry takes from the retry budget depends on this
/// reason.
pub(crate) fn budget_failure(kind: ErrorKind) -> RetryReason {
    match kind {
        ErrorKind::RateLimited => RetryReason::Refused,
        ErrorKind::Timeout => RetryReason::Timeout,
        _ => RetryReason::Fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue};
    use tinkers_limits::{RetryBudget, RetryDraw};

    fn response(
        status: u16,
        should_retry: Option<&'static str>,
        body: &'static str,
    ) -> HttpResponse {
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

    fn again(applied: Applied, kind: ErrorKind) -> RetryAction {
        RetryAction::Again {
            hint: None,
            applied,
            kind,
        }
    }

    #[test]
    fn response_status_of_a_submission_selects_the_action() {
        use ErrorKind as K;
        let rows = [
            (200, RetryAction::Accept),
            (201, RetryAction::Accept),
            (204, RetryAction::Accept),
            (302, RetryAction::Fail(K::Protocol)),
            (400, RetryAction::Fail(K::Rejected)),
            (401, RetryAction::Fail(K::Authentication)),
            (402, RetryAction::PauseForBilling { hint: None }),
            (403, RetryAction::Fail(K::PermissionDenied)),
            (404, RetryAction::Fail(K::NotFound)),
            (405, RetryAction::Fail(K::NotFound)),
            (408, again(Applied::Maybe, K::Timeout)),
            (409, RetryAction::Fail(K::Conflict)),
            (410, RetryAction::Fail(K::ResultLost)),
            (415, RetryAction::Fail(K::Rejected)),
            (422, RetryAction::Fail(K::Rejected)),
            (425, again(Applied::No, K::Rejected)),
            (429, RetryAction::Refused { hint: None }),
            (500, again(Applied::Maybe, K::Server)),
            (501, RetryAction::Fail(K::Server)),
            (502, again(Applied::Maybe, K::Server)),
            (503, again(Applied::Maybe, K::Server)),
            (504, again(Applied::Maybe, K::Server)),
            (524, again(Applied::Maybe, K::Server)),
        ];
        for (status, expected) in rows {
            assert_eq!(
                classify(&response(status, None, "{}"), SystemTime::UNIX_EPOCH),
                expected,
                "{status}"
            );
        }
    }

    #[test]
    fn response_status_of_a_poll_selects_the_action() {
        use StatusAction as S;
        let few = S::RetryUpTo(API_ERROR_RETRIES);
        let some = S::RetryUpTo(PROXY_ERROR_RETRIES);
        let reason = r#"{"detail": "no such model"}"#;
        // Each row is a status and its actions for four bodies: a reason, an object without a reason, an HTML page, and an empty
        // body.
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
        for (status, actions) in rows {
            for (body, expected) in [reason, "{}", "<html>", ""].into_iter().zip(actions) {
                let action = StatusAction::of(ExchangeKind::Poll, &response(status, None, body));
                assert_eq!(action, expected, "{status} {body}");
            }
        }
    }

    #[test]
    fn poll_accepts_only_successes_and_retries_html_error_pages() {
        for status in 100..1000 {
            for body in ["", "{}", "oops", "<html>", r#"{"error": "x"}"#] {
                let response = response(status, None, body);
                let action = StatusAction::of(ExchangeKind::Poll, &response);
                if action == StatusAction::Take {
                    assert!((200..300).contains(&status), "{status} {body}");
                }
                let is_final = status == 410 && body.starts_with("{\"");
                assert_eq!(action == StatusAction::Fail, is_final, "{status} {body}");
                let submission = StatusAction::of(ExchangeKind::Submission, &response);
                assert!(!matches!(
                    submission,
                    StatusAction::NotReady | StatusAction::RetryUpTo(_)
                ));
            }
        }
    }

    #[test]
    fn submission_accepts_exactly_the_2xx_statuses() {
        for status in 100..1000 {
            for should_retry in [None, Some("true"), Some("false"), Some("perhaps")] {
                for body in ["", "{}", "oops"] {
                    let action = classify(
                        &response(status, should_retry, body),
                        SystemTime::UNIX_EPOCH,
                    );
                    assert_eq!(
                        action == RetryAction::Accept,
                        (200..300).contains(&status),
                        "{status}"
                    );
                }
            }
        }
    }

    #[test]
    fn should_retry_header_forces_or_forbids_a_retry() {
        let decide = |status, should_retry, body| {
            classify(
                &response(status, should_retry, body),
                SystemTime::UNIX_EPOCH,
            )
        };
        for (status, kind) in [
            (402, ErrorKind::Billing),
            (500, ErrorKind::Server),
            (503, ErrorKind::Server),
        ] {
            let forbidden = decide(status, Some("false"), "{}");
            assert_eq!(forbidden, RetryAction::Fail(kind), "{status}");
        }
        // The status tells whether the request was applied, except for 503, where the header decides.
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
        // A 429 closes the gate, whatever the header says.
        for should_retry in ["false", "true"] {
            assert_eq!(
                decide(429, Some(should_retry), ""),
                RetryAction::Refused { hint: None }
            );
        }
        let paused = RetryAction::PauseForBilling { hint: None };
        assert_eq!(decide(402, Some("true"), ""), paused);
    }

    #[test]
    fn only_a_503_that_asks_for_a_retry_counts_as_not_applied() {
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
            let mut given = response(503, None, body);
            given.headers.extend(headers.map(|(name, value)| {
                (
                    http::HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            }));
            match classify(&given, SystemTime::UNIX_EPOCH) {
                RetryAction::Again { applied, .. } => {
                    assert_eq!(applied, expected, "{headers:?} {body}")
                }
                other => panic!("{headers:?} {body}: {other:?}"),
            }
        }
    }

    #[test]
    fn empty_400_response_of_a_proxy_is_retried() {
        assert_eq!(
            classify(&response(400, None, ""), SystemTime::UNIX_EPOCH),
            again(Applied::No, ErrorKind::Rejected)
        );
    }

    #[test]
    fn retry_budget_charges_most_for_timeouts_and_nothing_for_429() {
        let budget = RetryBudget::new(20);
        for (kind, left) in [
            (ErrorKind::RateLimited, 20),
            (ErrorKind::Timeout, 10),
            (ErrorKind::Connection, 5),
            (ErrorKind::Server, 0),
        ] {
            let draw = budget.draw(budget_failure(kind));
            assert_eq!(
                (draw, budget.tokens()),
                (RetryDraw::Granted, left),
                "{kind:?}"
            );
        }
        let draw = |kind| budget.draw(budget_failure(kind));
        assert_eq!(draw(ErrorKind::Server), RetryDraw::Empty);
        assert_eq!(draw(ErrorKind::RateLimited), RetryDraw::Granted);
    }
}
