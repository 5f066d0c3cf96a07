//! How fast results are asked for: at once while the server holds the polls, ever slower while it does not.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use tinkers_core::hint::retry_after;
use tinkers_core::{Caller, HttpResponse, Jitter, Settlement, TransportError, TransportErrorKind};

/// The pace of one result's polls. Whatever mix of answers comes, n polls that were answered at once take time that grows
/// with n, so no server can make the loop hot.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    quick: u32,
    failures: u32,
}

/// A poll that was held at least this long was a long poll.
const HELD: Duration = Duration::from_secs(1);
const FIRST_QUICK: Duration = Duration::from_millis(20);
const LONGEST_QUICK: Duration = Duration::from_secs(2);
const FIRST_FAILURE: Duration = Duration::from_millis(500);
const LONGEST_FAILURE: Duration = Duration::from_secs(30);
/// A hint is followed this far, as the limits follow those of refusals: a wrong date must not silence a result for days.
const LONGEST_HINT: Duration = Duration::from_secs(15 * 60);

impl Pace {
    /// The pause after "not ready" that took `held` to come.
    pub(crate) fn after_not_ready(&mut self, held: Duration, jitter: &dyn Jitter) -> Duration {
        self.failures = 0;
        if held >= HELD {
            self.quick = 0;
            return Duration::ZERO;
        }
        let pause = doubled(FIRST_QUICK, self.quick, LONGEST_QUICK);
        self.quick = self.quick.saturating_add(1);
        jitter.stretch(pause, 0.25)
    }

    /// The pause after a failure of the poll itself; never below `hint`.
    pub(crate) fn after_failure(&mut self, hint: Duration, jitter: &dyn Jitter) -> Duration {
        let pause = doubled(FIRST_FAILURE, self.failures, LONGEST_FAILURE);
        self.failures = self.failures.saturating_add(1);
        jitter.stretch(pause.max(hint), 0.25)
    }
}

/// How a poll that was answered ends its permit. Refusals in a row are paced by the gate of the lane.
pub(crate) fn settlement(
    outcome: &Result<HttpResponse, TransportError>,
    caller: &Caller,
) -> Settlement {
    let Ok(answer) = outcome else {
        return Settlement::Unknown;
    };
    // Asked of refusals alone, so that a large result is not read for it.
    if answer.status != StatusCode::TOO_MANY_REQUESTS {
        return Settlement::Accepted;
    }
    Settlement::Refused {
        hint: retry_after(answer, caller.time.wall()),
    }
}

/// Whether the rate limit closed before the poll could leave.
pub(crate) fn is_held(outcome: &Result<HttpResponse, TransportError>) -> bool {
    matches!(outcome, Err(error) if error.kind == TransportErrorKind::Held)
}

/// What a server that has no result yet, or failed, asks for before the next poll; zero when it says nothing.
pub(crate) fn hint_of(answer: &HttpResponse, wall: SystemTime) -> Duration {
    if answer.status.is_success() {
        return Duration::ZERO;
    }
    retry_after(answer, wall)
        .unwrap_or_default()
        .min(LONGEST_HINT)
}

fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::header::RETRY_AFTER;
    use http::{HeaderMap, HeaderValue};
    use tinkers_core::{FixedJitter, SplitMix};

    #[test]
    fn a_held_poll_is_followed_at_once_and_a_quick_one_is_not() {
        let mut pace = Pace::default();
        let jitter = FixedJitter(0.0);
        assert_eq!(
            pace.after_not_ready(Duration::from_secs(30), &jitter),
            Duration::ZERO
        );
        let quick: Vec<u128> = (0..9)
            .map(|_| pace.after_not_ready(Duration::ZERO, &jitter).as_millis())
            .collect();
        assert_eq!(quick, [20, 40, 80, 160, 320, 640, 1280, 2000, 2000]);
        assert_eq!(
            pace.after_not_ready(Duration::from_secs(1), &jitter),
            Duration::ZERO
        );
        assert_eq!(
            pace.after_not_ready(Duration::ZERO, &jitter).as_millis(),
            20
        );
    }

    #[test]
    fn a_hint_is_read_of_any_answer_without_a_result_and_followed_so_far() {
        let answer = |status, seconds| HttpResponse {
            status,
            headers: HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from(seconds))]),
            body: Bytes::new(),
        };
        let seconds = |status, told: u64| {
            let hint = hint_of(&answer(status, told), SystemTime::UNIX_EPOCH);
            hint.as_secs()
        };
        for status in [
            StatusCode::PAYMENT_REQUIRED,
            StatusCode::NOT_FOUND,
            StatusCode::REQUEST_TIMEOUT,
            StatusCode::INTERNAL_SERVER_ERROR,
        ] {
            assert_eq!(seconds(status, 20), 20, "{status}");
            assert_eq!(seconds(status, 86_400), 900, "{status}");
        }
        assert_eq!(seconds(StatusCode::OK, 20), 0);
    }

    #[test]
    fn no_mix_of_quick_answers_makes_a_hot_loop() {
        for seed in 0..200 {
            let mut pace = Pace::default();
            let random = SplitMix::new(seed);
            let mut slept = Duration::ZERO;
            for _ in 0..200 {
                let jitter: &dyn Jitter = &random;
                slept += match jitter.bits() % 3 {
                    0 => pace.after_not_ready(Duration::ZERO, jitter),
                    1 => pace.after_not_ready(Duration::from_millis(jitter.bits() % 900), jitter),
                    _ => pace.after_failure(Duration::ZERO, jitter),
                };
            }
            assert!(
                slept >= Duration::from_secs(100),
                "seed {seed}: 200 polls within {slept:?}"
            );
        }
    }
}
