//! The reachability of the server of an endpoint, and the times at which an outage is logged.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tinkers_core::Timestamp;

/// The time from the first failed request to the first log message about an outage. Shorter outages are not logged, since broken
/// connections are soon replaced.
const FIRST_REPORT: Duration = Duration::from_secs(2);
/// The time from the first failed request to the second log message about an outage. Further messages follow at the interval
/// [`NEXT_REPORTS`].
const SECOND_REPORT: Duration = Duration::from_secs(10);
const NEXT_REPORTS: Duration = Duration::from_secs(60);

/// The detector of whether a server is reachable, judged by the outcomes of all requests to an endpoint. All sessions of the endpoint share
/// the detector, so that an outage is logged only once.
#[derive(Debug, Default)]
pub(crate) struct Reachability {
    /// Whether a request has failed since the last response, so that there may be an outage. If false, a successful request reads only this
    /// flag and takes no lock.
    is_failing: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The time at which the current series of failed requests began; `None` if no request has failed since the last response.
    since: Option<Timestamp>,
    /// The time from which a failed request causes the next log message about the outage.
    report_at: Timestamp,
    is_reported: bool,
}

impl Reachability {
    /// Records a failed request. Returns the duration of the outage so far if the outage has to be logged now.
    pub(crate) fn failed(&self, now: Timestamp) -> Option<Duration> {
        let mut state = self.lock();
        let Some(since) = state.since else {
            *state = State {
                since: Some(now),
                report_at: now.after(FIRST_REPORT),
                is_reported: false,
            };
            self.is_failing.store(true, Ordering::Release);
            return None;
        };
        if now < state.report_at {
            return None;
        }
        let second = since.after(SECOND_REPORT);
        state.report_at = if now < second {
            second
        } else {
            now.after(NEXT_REPORTS)
        };
        state.is_reported = true;
        Some(now.since(since))
    }

    /// Records a response to a request that was sent at `sent_at`. Returns the duration of the outage if the response ends an outage that
    /// was logged.
    pub(crate) fn responded(&self, sent_at: Timestamp, now: Timestamp) -> Option<Duration> {
        // A failure that is recorded concurrently is ended by the next response.
        if !self.is_failing.load(Ordering::Acquire) {
            return None;
        }
        let mut state = self.lock();
        // A request that was sent before the first failure does not show that the outage is over.
        let since = state.since.filter(|since| sent_at >= *since)?;
        self.is_failing.store(false, Ordering::Release);
        let was_reported = std::mem::take(&mut *state).is_reported;
        was_reported.then(|| now.since(since))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::ORIGIN.after(Duration::from_secs(seconds))
    }

    #[test]
    fn outage_is_logged_after_2_s_10_s_and_then_once_a_minute() {
        let reachability = Reachability::default();
        let reports: Vec<u64> = (100..300)
            .filter_map(|second| reachability.failed(at(second)))
            .map(|lasted| lasted.as_secs())
            .collect();
        assert_eq!(reports, [2, 10, 70, 130, 190]);
        let lasted = Duration::from_secs(200);
        assert_eq!(reachability.responded(at(300), at(300)), Some(lasted));
        assert_eq!(reachability.responded(at(301), at(301)), None, "once");
        // The next outage is measured from its own start.
        assert_eq!(reachability.failed(at(400)), None);
        assert!(reachability.failed(at(402)).is_some());
    }

    #[test]
    fn outage_of_less_than_2_s_is_not_logged() {
        let reachability = Reachability::default();
        for second in 0..10 {
            assert_eq!(reachability.failed(at(second)), None);
            assert_eq!(reachability.responded(at(second), at(second)), None);
        }
    }

    #[test]
    fn response_to_a_request_sent_before_an_outage_does_not_end_the_outage() {
        let reachability = Reachability::default();
        reachability.failed(at(10));
        assert!(reachability.failed(at(12)).is_some());
        assert_eq!(reachability.responded(at(9), at(13)), None);
        assert!(reachability.responded(at(13), at(14)).is_some());
    }
}
