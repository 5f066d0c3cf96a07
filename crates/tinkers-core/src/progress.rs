//! What is known of an operation under way, written by those who drive it and read by those who wait.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tinkers_wire::QueueState;

use crate::error::{Error, ErrorKind, Phase, Sent, Stalled};
use crate::time::{Moment, Time};

/// A view of an operation under way.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Where it is.
    pub phase: Phase,
    /// When the last news came: an answer of any kind.
    pub last_news: Moment,
    /// The state of the server's queue, when it said so.
    pub queue_state: Option<QueueState>,
    /// Why the queue is in that state, in the server's words.
    pub queue_reason: Option<String>,
    /// How often the result was asked for.
    pub polls: u64,
    /// The server's id of the operation, once accepted. Of several chunks, the last accepted one's.
    pub request_id: Option<String>,
}

/// The shared cell behind [`Progress`]. Its lock is held for a few stores and never across a wait.
#[derive(Debug)]
pub struct ProgressCell(Mutex<Progress>);

impl ProgressCell {
    /// An operation that begins at `now`.
    pub fn new(now: Moment) -> Self {
        Self(Mutex::new(Progress {
            phase: Phase::Admission,
            last_news: now,
            queue_state: None,
            queue_reason: None,
            polls: 0,
            request_id: None,
        }))
    }

    /// The state now.
    pub fn snapshot(&self) -> Progress {
        self.lock().clone()
    }

    /// The operation entered `phase`.
    pub fn enter(&self, phase: Phase) {
        self.lock().phase = phase;
    }

    /// An answer of any kind came.
    pub fn news(&self, now: Moment) {
        let mut state = self.lock();
        state.last_news = state.last_news.max(now);
    }

    /// The server accepted it under `request_id`.
    pub fn accepted(&self, now: Moment, request_id: &str) {
        let mut state = self.lock();
        state.phase = Phase::Waiting;
        state.last_news = state.last_news.max(now);
        state.request_id = Some(request_id.to_owned());
    }

    /// The result was asked for once more.
    pub fn polled(&self) {
        self.lock().polls += 1;
    }

    /// The server told of its queue. Returns whether that is a change.
    pub fn queue(&self, state: QueueState, reason: Option<&str>) -> bool {
        let mut cell = self.lock();
        let changed =
            cell.queue_state.as_ref() != Some(&state) || cell.queue_reason.as_deref() != reason;
        cell.queue_state = Some(state);
        cell.queue_reason = reason.map(str::to_owned);
        changed
    }

    /// Completes with a `Stalled` error when no news came for `limit`.
    pub async fn stalled(&self, time: &dyn Time, limit: Duration) -> Error {
        loop {
            let (phase, last_news) = {
                let state = self.lock();
                (state.phase, state.last_news)
            };
            let since = time.now().since(last_news);
            if since >= limit {
                let message = format!(
                    "no news of the operation for {} s, while {}",
                    since.as_secs(),
                    describe(phase)
                );
                let sent = if phase == Phase::Admission {
                    Sent::NotSent
                } else {
                    Sent::MaybeSent
                };
                return Error::new(ErrorKind::Stalled, sent, message)
                    .with_stalled(Stalled { phase, since });
            }
            time.sleep_until(last_news.after(limit)).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn describe(phase: Phase) -> &'static str {
    match phase {
        Phase::Admission => "waiting for its turn",
        Phase::Submitting => "submitting it",
        Phase::Waiting => "waiting for its result",
        Phase::Fetching => "fetching its result",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::ManualClock;
    use std::future::Future;
    use std::task::{Context, Poll, Waker};

    #[test]
    fn news_moves_the_stall_and_silence_brings_it_with_its_phase() {
        let clock = ManualClock::new();
        let cell = ProgressCell::new(clock.now());
        let limit = Duration::from_secs(10);
        let mut cx = Context::from_waker(Waker::noop());
        let mut stalled = std::pin::pin!(cell.stalled(&clock, limit));
        assert!(stalled.as_mut().poll(&mut cx).is_pending());
        clock.advance(Duration::from_secs(9));
        cell.accepted(clock.now(), "r-1");
        clock.advance(Duration::from_secs(9));
        assert!(stalled.as_mut().poll(&mut cx).is_pending());
        clock.advance(Duration::from_secs(1));
        let Poll::Ready(error) = stalled.as_mut().poll(&mut cx) else {
            panic!("silence for the whole limit is a stall")
        };
        assert_eq!(
            error.stalled(),
            Some(Stalled {
                phase: Phase::Waiting,
                since: limit
            })
        );
        assert_eq!(cell.snapshot().request_id.as_deref(), Some("r-1"));
    }
}
