//! Backoff between polls: no pause while the server holds the polls, and growing pauses if it responds at once.

use std::time::{Duration, SystemTime};

use tinkers_core::hint::retry_after;
use tinkers_core::retry::{BACKOFF, SPREAD};
use tinkers_core::{Backoff, HttpResponse, Jitter};

/// The backoff state of a poll loop, which computes the pause before the next poll.
///
/// The pauses grow with each failure and with each "not ready" response that arrives at once, in any order, so that no server can make the
/// client poll in a busy loop.
#[derive(Debug, Default)]
pub(crate) struct PollBackoff {
    /// The number of consecutive "not ready" responses that arrived within one second of the poll. The pause before the next poll doubles
    /// with each of them. A response that arrives later resets the number to 0.
    immediate: u32,
    /// The number of consecutive failed polls, which determines the next backoff.
    failures: u32,
}

/// The minimum response time of a long poll, which the server keeps open while there is no result. The next poll follows a long poll
/// without a pause.
const LONG_POLL: Duration = Duration::from_secs(1);
const IMMEDIATE: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
/// The maximum retry delay that the client accepts from a server; a longer delay is cut to this value. A server whose clock is wrong must
/// not delay a result for days.
const LONGEST_HINT: Duration = Duration::from_secs(15 * 60);

impl PollBackoff {
    /// Returns the pause after a "not ready" response that arrived `duration` after its poll was sent.
    pub(crate) fn after_not_ready(&mut self, duration: Duration, jitter: &dyn Jitter) -> Duration {
        self.failures = 0;
        if duration >= LONG_POLL {
            self.immediate = 0;
            return Duration::ZERO;
        }
        let pause = IMMEDIATE.pause(self.immediate);
        self.immediate = self.immediate.saturating_add(1);
        jitter.stretch(pause, SPREAD)
    }

    /// Returns the pause after a failed poll. The pause is never shorter than `hint`, the server's retry delay.
    pub(crate) fn after_failure(&mut self, hint: Duration, jitter: &dyn Jitter) -> Duration {
        let pause = BACKOFF.pause(self.failures);
        self.failures = self.failures.saturating_add(1);
        jitter.stretch(pause.max(hint), SPREAD)
    }
}

/// Returns the delay that the server asks for before a retry, in its `retry-after` header or in the response body. Returns zero for a
/// successful response, and for a response without a delay.
pub(crate) fn hint_of(response: &HttpResponse, wall: SystemTime) -> Duration {
    if response.status.is_success() {
        return Duration::ZERO;
    }
    retry_after(response, wall)
        .unwrap_or_default()
        .min(LONGEST_HINT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::header::RETRY_AFTER;
    use http::{HeaderMap, HeaderValue, StatusCode};
    use tinkers_core::{FixedJitter, SplitMix};

    #[test]
    fn pause_between_polls_is_zero_after_a_long_poll_and_doubles_otherwise() {
        let mut backoff = PollBackoff::default();
        let jitter = FixedJitter(0.0);
        assert_eq!(
            backoff.after_not_ready(Duration::from_secs(30), &jitter),
            Duration::ZERO
        );
        let immediate: Vec<u128> = (0..9)
            .map(|_| backoff.after_not_ready(Duration::ZERO, &jitter).as_millis())
            .collect();
        assert_eq!(immediate, [20, 40, 80, 160, 320, 640, 1280, 2000, 2000]);
        assert_eq!(
            backoff.after_not_ready(Duration::from_secs(1), &jitter),
            Duration::ZERO
        );
        assert_eq!(
            backoff.after_not_ready(Duration::ZERO, &jitter).as_millis(),
            20
        );
    }

    #[test]
    fn retry_delays_of_failed_polls_are_followed_up_to_15_minutes() {
        let response = |status, seconds| HttpResponse {
            status,
            headers: HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from(seconds))]),
            body: Bytes::new(),
        };
        let seconds = |status, hint: u64| {
            let hint = hint_of(&response(status, hint), SystemTime::UNIX_EPOCH);
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
    fn no_sequence_of_immediate_poll_responses_causes_a_busy_loop() {
        for seed in 0..200 {
            let mut backoff = PollBackoff::default();
            let random = SplitMix::new(seed);
            let mut slept = Duration::ZERO;
            for _ in 0..200 {
                let jitter: &dyn Jitter = &random;
                slept += match jitter.bits() % 3 {
                    0 => backoff.after_not_ready(Duration::ZERO, jitter),
                    1 => {
                        backoff.after_not_ready(Duration::from_millis(jitter.bits() % 900), jitter)
                    }
                    _ => backoff.after_failure(Duration::ZERO, jitter),
                };
            }
            assert!(
                slept >= Duration::from_secs(100),
                "seed {seed}: 200 polls within {slept:?}"
            );
        }
    }
}
