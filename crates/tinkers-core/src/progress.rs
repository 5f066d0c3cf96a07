//! The progress of an operation, shared by its background task and its waiter.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tinkers_wire::QueueState;

use crate::closing::SendDecision;
use crate::error::{Error, ErrorKind, Phase, Sent, Stalled};
use crate::time::Timestamp;

/// A snapshot of the progress of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The current phase of the operation.
    pub phase: Phase,
    /// The time of the last response of the server to a request of the operation, or the start of the operation.
    pub last_news: Timestamp,
    /// The state of the server's queue for the operation, if the server reported one.
    pub queue_state: Option<QueueState>,
    /// The reason for the state of the queue, in the words of the server.
    pub queue_reason: Option<String>,
    /// The number of polls for the result so far.
    pub polls: u64,
    /// The request id, once the server has accepted the operation. If the operation has several requests, this is the id of the last
    /// accepted one.
    pub request_id: Option<String>,
}

/// The shared state of an operation from which snapshots of its [`Progress`] are taken. The lock is held for a few assignments, and never
/// across an await.
///
/// The cell also records whether any request of the operation may have reached the server, for the error of an abandoned operation.
#[derive(Debug)]
pub struct ProgressCell(Mutex<State>);

/// The fields of [`Progress`] in a compact form, to save memory: each operation in flight has these fields.
#[derive(Debug)]
struct State {
    phase: Phase,
    last_news: Timestamp,
    polls: u64,
    request_id: Option<Arc<str>>,
    /// The state and the reason of the server's queue. Boxed, since few servers report them.
    queue: Option<Box<(QueueState, Option<String>)>>,
    /// The number of attempts that are being sent.
    attempts: u32,
    /// Whether an attempt that has ended may have reached the server.
    sent: bool,
    /// Whether the operation was handed over for sending: it will be sent even if the future that waits for its result is dropped.
    queued: bool,
}

/// A guard of an attempt in progress. If the guard is dropped without [`AttemptGuard::mark_not_applied`], the attempt counts as possibly
/// received by the server.
#[derive(Debug)]
#[must_use = "an attempt that is dropped counts as one that may have reached the server"]
pub struct AttemptGuard<'a> {
    cell: &'a ProgressCell,
    is_not_applied: bool,
    send_decision: Option<Arc<SendDecision>>,
}

impl AttemptGuard<'_> {
    /// Sets the [`SendDecision`] of the attempt. Dropping the guard then prevents an attempt that was not sent yet from being sent. Such an
    /// attempt counts as not sent.
    pub(crate) fn set_send_decision(&mut self, send_decision: Option<Arc<SendDecision>>) {
        self.send_decision = send_decision;
    }

    /// Ends an attempt that the server did not apply: the attempt was not sent, or the server refused or rejected the request.
    pub fn mark_not_applied(mut self) {
        self.is_not_applied = true;
    }
}

impl Drop for AttemptGuard<'_> {
    fn drop(&mut self) {
        let is_retracted = self
            .send_decision
            .as_ref()
            .is_some_and(|send_decision| send_decision.retract());
        let mut state = self.cell.lock();
        state.attempts -= 1;
        state.sent |= !self.is_not_applied && !is_retracted;
    }
}

impl State {
    fn may_be_sent(&self) -> bool {
        self.sent || self.attempts > 0
    }
}

impl ProgressCell {
    /// Creates the progress of an operation that begins at `now`.
    pub fn new(now: Timestamp) -> Self {
        Self(Mutex::new(State {
            phase: Phase::Admission,
            last_news: now,
            polls: 0,
            request_id: None,
            queue: None,
            attempts: 0,
            sent: false,
            queued: false,
        }))
    }

    /// Returns a snapshot of the progress.
    pub fn snapshot(&self) -> Progress {
        let state = self.lock();
        let (queue_state, queue_reason) = state.queue.as_deref().cloned().unzip();
        Progress {
            phase: state.phase,
            last_news: state.last_news,
            queue_state,
            queue_reason: queue_reason.flatten(),
            polls: state.polls,
            request_id: state.request_id.as_deref().map(str::to_owned),
        }
    }

    /// Returns `NotSent` if no request of the operation was sent and none will be sent, otherwise `MaybeSent`. The error of the operation
    /// contains this value.
    pub fn sent(&self) -> Sent {
        let state = self.lock();
        if state.may_be_sent() || state.queued {
            Sent::MaybeSent
        } else {
            Sent::NotSent
        }
    }

    /// Returns whether a request of the operation may have reached the server.
    pub fn may_be_sent(&self) -> bool {
        self.lock().may_be_sent()
    }

    /// Marks the operation as handed over for sending: it will be sent even if the future that waits for its result is dropped.
    pub fn mark_queued(&self) {
        self.lock().queued = true;
    }

    /// Begins an attempt. The attempt counts as possibly sent from now on, unless it ends with [`AttemptGuard::mark_not_applied`].
    pub fn begin_attempt(&self) -> AttemptGuard<'_> {
        self.lock().attempts += 1;
        AttemptGuard {
            cell: self,
            is_not_applied: false,
            send_decision: None,
        }
    }

    /// Sets the phase of the operation.
    pub fn enter(&self, phase: Phase) {
        self.lock().phase = phase;
    }

    /// Records that a response arrived at `now`. The time without progress is counted from there.
    pub fn record_response(&self, now: Timestamp) {
        let mut state = self.lock();
        state.last_news = state.last_news.max(now);
    }

    /// Returns the time of the last response.
    pub fn last_news(&self) -> Timestamp {
        self.lock().last_news
    }

    /// Records that the server accepted a request and returned `request_id`.
    pub fn accepted<Id: AsRef<str> + Into<Arc<str>>>(&self, now: Timestamp, request_id: Id) {
        let mut state = self.lock();
        state.sent = true;
        state.phase = Phase::Waiting;
        state.last_news = state.last_news.max(now);
        // This method is called twice per request: after the submission response, and by the waiter.
        if state.request_id.as_deref() != Some(request_id.as_ref()) {
            state.request_id = Some(request_id.into());
        }
    }

    /// Adds one to the number of polls for the result of the operation.
    pub fn record_poll(&self) {
        self.lock().polls += 1;
    }

    /// Records the state of the server's queue, and the server's reason for it. Returns whether the state or the reason changed.
    pub fn queue(&self, state: QueueState, reason: Option<&str>) -> bool {
        let mut cell = self.lock();
        let known = cell.queue.as_deref();
        if known.is_some_and(|(known, why)| *known == state && why.as_deref() == reason) {
            return false;
        }
        cell.queue = Some(Box::new((state, reason.map(str::to_owned))));
        true
    }

    /// Returns the time at which the operation will count as stalled if there is no further progress.
    ///
    /// While the operation waits for admission, it also makes progress when the limiter's queue moves. `moved` returns the last time at
    /// which that queue moved.
    ///
    /// # Errors
    /// `Stalled` if there was no progress for `limit` before `now`.
    pub fn check_stall(
        &self,
        now: Timestamp,
        limit: Duration,
        moved: impl FnOnce() -> Option<Timestamp>,
    ) -> Result<Timestamp, Error> {
        let (phase, mut last_news) = {
            let state = self.lock();
            (state.phase, state.last_news)
        };
        if phase == Phase::Admission && now.since(last_news) >= limit {
            last_news = last_news.max(moved().unwrap_or_default());
        }
        let since = now.since(last_news);
        if since < limit {
            return Ok(last_news.after(limit));
        }
        let message = format!(
            "no progress of the operation for {} s while {}",
            since.as_secs(),
            describe(phase)
        );
        Err(Error::new(ErrorKind::Stalled, self.sent(), message)
            .with_stalled(Stalled { phase, since }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn describe(phase: Phase) -> &'static str {
    match phase {
        Phase::Admission => "waiting for admission",
        Phase::Submitting => "submitting it",
        Phase::Waiting => "waiting for its result",
        Phase::Fetching => "fetching its result",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{Clock, ManualClock};

    #[test]
    fn response_resets_the_progress_deadline() {
        let clock = ManualClock::new();
        let cell = ProgressCell::new(clock.now());
        let limit = Duration::from_secs(10);
        let begun = clock.now();
        assert_eq!(
            cell.check_stall(begun, limit, || None).unwrap(),
            begun.after(limit)
        );
        clock.advance(Duration::from_secs(9));
        let response_at = clock.now();
        cell.accepted(response_at, "r-1");
        clock.advance(Duration::from_secs(9));
        let still = cell.check_stall(clock.now(), limit, || None);
        assert_eq!(still.unwrap(), response_at.after(limit));
        clock.advance(Duration::from_secs(1));
        let error = cell.check_stall(clock.now(), limit, || None).unwrap_err();
        assert_eq!(
            error.stalled(),
            Some(Stalled {
                phase: Phase::Waiting,
                since: limit
            })
        );
        assert_eq!(cell.snapshot().request_id.as_deref(), Some("r-1"));
    }

    /// Checks `cell` at a time when there was no progress for longer than the limit. Returns the `Stalled` error of the check.
    fn stall(cell: &ProgressCell) -> Error {
        let limit = Duration::from_secs(10);
        let stalled = cell.check_stall(Timestamp::ORIGIN.after(limit), limit, || None);
        stalled.expect_err("no progress for the whole limit")
    }

    #[test]
    fn stalled_error_says_maybe_sent_if_an_attempt_may_have_arrived() {
        let fresh = || ProgressCell::new(Timestamp::ORIGIN);
        let cell = fresh();
        assert_eq!(stall(&cell).sent(), Sent::NotSent);
        cell.begin_attempt().mark_not_applied();
        cell.enter(Phase::Admission);
        assert_eq!(
            stall(&cell).sent(),
            Sent::NotSent,
            "the attempt was not sent"
        );

        let attempt = cell.begin_attempt();
        assert_eq!(
            stall(&cell).sent(),
            Sent::MaybeSent,
            "an attempt is in progress"
        );
        drop(attempt);
        cell.enter(Phase::Admission);
        cell.begin_attempt().mark_not_applied();
        let later = stall(&cell);
        assert_eq!(
            later.sent(),
            Sent::MaybeSent,
            "an earlier attempt may have been applied"
        );

        // One of two requests of an operation is accepted, and the other waits for admission.
        let cell = fresh();
        cell.accepted(Timestamp::ORIGIN, "r-1");
        cell.enter(Phase::Admission);
        assert_eq!(stall(&cell).sent(), Sent::MaybeSent);

        let cell = fresh();
        cell.mark_queued();
        let queued = stall(&cell);
        assert_eq!(queued.sent(), Sent::MaybeSent);
        assert_eq!(queued.stalled().map(|s| s.phase), Some(Phase::Admission));
    }
}
