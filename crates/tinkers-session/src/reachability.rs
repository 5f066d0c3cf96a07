//! Reports in the log that a server does not answer, again while that lasts, and once when it answers again.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tinkers_core::contain::contain;
use tinkers_core::{
    BaseUrl, BoxFuture, Clock, HttpRequest, HttpResponse, RouteClass, Timestamp, Transport,
    TransportError, TransportErrorKind,
};

use crate::endpoint::Endpoint;

/// Failures for a shorter time are not reported: a connection that breaks is made again.
const HICCUP: Duration = Duration::from_secs(2);
/// The second report comes this long after the first failure, and the next ones a minute apart.
const SECOND_REPORT: Duration = Duration::from_secs(10);
const NEXT_REPORTS: Duration = Duration::from_secs(60);

/// Whether the server of an endpoint answers, as far as its requests show. Shared by all sessions of the endpoint, so that an outage
/// is reported once and not by each of them.
#[derive(Debug, Default)]
pub(crate) struct Reachability {
    /// Whether there is a failure that no answer has followed. All that a success reads while all is well.
    is_failing: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The first failure since the last answer.
    since: Option<Timestamp>,
    /// When the next failure is reported.
    report_at: Timestamp,
    is_reported: bool,
}

impl Reachability {
    /// Takes note of a failure. Returns for how long the server has failed, when that is to be reported.
    fn failed(&self, now: Timestamp) -> Option<Duration> {
        let mut state = self.lock();
        let Some(since) = state.since else {
            *state = State {
                since: Some(now),
                report_at: now.after(HICCUP),
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

    /// Takes note of an answer to a request that left at `sent_at`. Returns how long the server had failed, when that was reported.
    fn answered(&self, sent_at: Timestamp, now: Timestamp) -> Option<Duration> {
        // A failure that is noted at this very moment waits for the next answer.
        if !self.is_failing.load(Ordering::Acquire) {
            return None;
        }
        let mut state = self.lock();
        // What left before the first failure says nothing of what goes now.
        let since = state.since.filter(|since| sent_at >= *since)?;
        self.is_failing.store(false, Ordering::Release);
        let was_reported = std::mem::take(&mut *state).is_reported;
        was_reported.then(|| now.since(since))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A transport whose outcomes are observed: for submissions, polls and heartbeats alike.
#[derive(Debug)]
pub(crate) struct Observed {
    inner: Arc<dyn Transport>,
    time: Arc<dyn Clock>,
    server: BaseUrl,
    /// And not the endpoint, which lives as long as its sessions.
    reachability: Arc<Reachability>,
}

impl Observed {
    /// Observes `inner` with the clock that all sessions of the endpoint share.
    pub(crate) fn wrap(
        inner: Arc<dyn Transport>,
        time: &Arc<dyn Clock>,
        endpoint: &Endpoint,
    ) -> Arc<dyn Transport> {
        Arc::new(Self {
            inner,
            time: Arc::clone(time),
            server: endpoint.key().address().clone(),
            reachability: Arc::clone(endpoint.reachability()),
        })
    }

    fn failed(&self, cause: &dyn Display) {
        // Logged without a lock, since subscribers are foreign code, whose panic must not take the answer along.
        if let Some(lasted) = self.reachability.failed(self.time.now()) {
            contain(|| {
                tracing::warn!(
                    server = %self.server,
                    cause = %cause,
                    lasted_s = lasted.as_secs(),
                    "the server does not answer; requests are repeated until it does"
                );
            });
        }
    }

    fn answered(&self, sent_at: Timestamp) {
        if let Some(lasted) = self.reachability.answered(sent_at, self.time.now()) {
            // As a warning, so that whoever saw the outage sees its end.
            contain(|| {
                tracing::warn!(
                    server = %self.server,
                    lasted_s = lasted.as_secs(),
                    "the server answers again"
                );
            });
        }
    }
}

impl Transport for Observed {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        let class = request.class;
        Box::pin(async move {
            let sent_at = self.time.now();
            let outcome = self.inner.send(request).await;
            match &outcome {
                Ok(answer) => match answer.status.as_u16() {
                    502..=504 | 520..=599 => self.failed(&format_args!("status {}", answer.status)),
                    _ => self.answered(sent_at),
                },
                Err(error) if is_no_answer(error, class) => self.failed(error),
                Err(_) => {}
            }
            outcome
        })
    }
}

/// Whether a request failed because there is no server that answers.
fn is_no_answer(error: &TransportError, class: RouteClass) -> bool {
    use TransportErrorKind as K;
    match error.kind {
        K::Connect | K::Tls | K::Broken => true,
        // A poll may be held for longer than it is waited for.
        K::Timeout => class != RouteClass::Poll,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::ORIGIN.after(Duration::from_secs(seconds))
    }

    #[test]
    fn an_outage_is_reported_soon_after_ten_seconds_and_each_minute() {
        let reachability = Reachability::default();
        let reports: Vec<u64> = (100..300)
            .filter_map(|second| reachability.failed(at(second)))
            .map(|lasted| lasted.as_secs())
            .collect();
        assert_eq!(reports, [2, 10, 70, 130, 190]);
        let lasted = Duration::from_secs(200);
        assert_eq!(reachability.answered(at(300), at(300)), Some(lasted));
        assert_eq!(reachability.answered(at(301), at(301)), None, "once");
        // The next one is counted from its own beginning.
        assert_eq!(reachability.failed(at(400)), None);
        assert!(reachability.failed(at(402)).is_some());
    }

    #[test]
    fn a_hiccup_is_not_reported() {
        let reachability = Reachability::default();
        for second in 0..10 {
            assert_eq!(reachability.failed(at(second)), None);
            assert_eq!(reachability.answered(at(second), at(second)), None);
        }
    }

    #[test]
    fn an_answer_to_an_older_request_ends_no_outage() {
        let reachability = Reachability::default();
        reachability.failed(at(10));
        assert!(reachability.failed(at(12)).is_some());
        assert_eq!(reachability.answered(at(9), at(13)), None);
        assert!(reachability.answered(at(13), at(14)).is_some());
    }
}
