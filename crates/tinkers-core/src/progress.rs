//! What is known of an operation under way, written by those who drive it and read by those who wait.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tinkers_wire::QueueState;

use crate::closing::Exit;
use crate::error::{Error, ErrorKind, Phase, Sent, Stalled};
use crate::time::Timestamp;

/// A view of an operation under way.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Where it is.
    pub phase: Phase,
    /// When the last news came: an answer of any kind.
    pub last_news: Timestamp,
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
///
/// It also remembers whether any request of the operation may be at the server, over all attempts and all chunks: an operation
/// that is given up says so, whatever its latest attempt did.
#[derive(Debug)]
pub struct ProgressCell(Mutex<State>);

/// What [`Progress`] tells, in little room: there is one for each operation in flight.
#[derive(Debug)]
struct State {
    phase: Phase,
    last_news: Timestamp,
    polls: u64,
    request_id: Option<Arc<str>>,
    /// Few servers have anything to say of it.
    queue: Option<Box<(QueueState, Option<String>)>>,
    /// Attempts on their way now.
    leaving: u32,
    /// Some attempt may have reached the server.
    sent: bool,
    /// It will be submitted whatever becomes of the waiting.
    queued: bool,
}

/// An attempt on its way. Dropped, it counts as one that may have reached the server.
#[derive(Debug)]
#[must_use = "an attempt that is dropped counts as one that may have reached the server"]
pub struct AttemptGuard<'a> {
    cell: &'a ProgressCell,
    stayed: bool,
    exit: Option<Arc<Exit>>,
}

impl AttemptGuard<'_> {
    /// Sets where it leaves while that is not known otherwise: dropped before it has left, it stays.
    pub(crate) fn by(&mut self, exit: Option<Arc<Exit>>) {
        self.exit = exit;
    }

    /// The server did nothing with it, and that is known.
    pub fn stayed(mut self) {
        self.stayed = true;
    }
}

impl Drop for AttemptGuard<'_> {
    fn drop(&mut self) {
        let is_kept_back = self.exit.as_ref().is_some_and(|exit| exit.retract());
        let mut state = self.cell.lock();
        state.leaving -= 1;
        state.sent |= !self.stayed && !is_kept_back;
    }
}

impl State {
    fn has_left(&self) -> bool {
        self.sent || self.leaving > 0
    }
}

impl ProgressCell {
    /// An operation that begins at `now`.
    pub fn new(now: Timestamp) -> Self {
        Self(Mutex::new(State {
            phase: Phase::Admission,
            last_news: now,
            polls: 0,
            request_id: None,
            queue: None,
            leaving: 0,
            sent: false,
            queued: false,
        }))
    }

    /// The state now.
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

    /// What is known of the operation's requests: `NotSent` while none can be at the server nor will be, else `MaybeSent`.
    pub fn sent(&self) -> Sent {
        let state = self.lock();
        if state.has_left() || state.queued {
            Sent::MaybeSent
        } else {
            Sent::NotSent
        }
    }

    /// Returns whether any request of the operation may have reached the server by now.
    pub fn has_left(&self) -> bool {
        self.lock().has_left()
    }

    /// The operation is queued and will be sent whether anybody waits for it or not: giving it up does not keep it from the
    /// server.
    pub fn will_be_sent(&self) {
        self.lock().queued = true;
    }

    /// An attempt sets out. It counts as possibly sent while it is under way, and for good unless it
    /// [stayed](AttemptGuard::stayed).
    pub fn leaving(&self) -> AttemptGuard<'_> {
        self.lock().leaving += 1;
        AttemptGuard {
            cell: self,
            stayed: false,
            exit: None,
        }
    }

    /// The operation entered `phase`.
    pub fn enter(&self, phase: Phase) {
        self.lock().phase = phase;
    }

    /// An answer of any kind came.
    pub fn news(&self, now: Timestamp) {
        let mut state = self.lock();
        state.last_news = state.last_news.max(now);
    }

    /// Returns when the last news came.
    pub fn last_news(&self) -> Timestamp {
        self.lock().last_news
    }

    /// The server accepted it under `request_id`, whose text may be shared with those who wait under it.
    pub fn accepted<Id: AsRef<str> + Into<Arc<str>>>(&self, now: Timestamp, request_id: Id) {
        let mut state = self.lock();
        state.sent = true;
        state.phase = Phase::Waiting;
        state.last_news = state.last_news.max(now);
        // It is told twice: when the server says so, and by those who then wait.
        if state.request_id.as_deref() != Some(request_id.as_ref()) {
            state.request_id = Some(request_id.into());
        }
    }

    /// The result was asked for once more.
    pub fn polled(&self) {
        self.lock().polls += 1;
    }

    /// The server told of its queue. Returns whether that is a change.
    pub fn queue(&self, state: QueueState, reason: Option<&str>) -> bool {
        let mut cell = self.lock();
        let known = cell.queue.as_deref();
        if known.is_some_and(|(known, why)| *known == state && why.as_deref() == reason) {
            return false;
        }
        cell.queue = Some(Box::new((state, reason.map(str::to_owned))));
        true
    }

    /// When it will count as stalled, should no news come. Asked only while it waits for its turn, `moved` tells when its queue
    /// last moved, which is news then.
    ///
    /// # Errors
    /// `Stalled` when at `now` no news came for `limit`.
    pub fn patience(
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
            "no news of the operation for {} s, while {}",
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
        Phase::Admission => "waiting for its turn",
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
    fn news_moves_the_stall_and_silence_brings_it_with_its_phase() {
        let clock = ManualClock::new();
        let cell = ProgressCell::new(clock.now());
        let limit = Duration::from_secs(10);
        let begun = clock.now();
        assert_eq!(
            cell.patience(begun, limit, || None).unwrap(),
            begun.after(limit)
        );
        clock.advance(Duration::from_secs(9));
        let told = clock.now();
        cell.accepted(told, "r-1");
        clock.advance(Duration::from_secs(9));
        let still = cell.patience(clock.now(), limit, || None);
        assert_eq!(still.unwrap(), told.after(limit));
        clock.advance(Duration::from_secs(1));
        let error = cell.patience(clock.now(), limit, || None).unwrap_err();
        assert_eq!(
            error.stalled(),
            Some(Stalled {
                phase: Phase::Waiting,
                since: limit
            })
        );
        assert_eq!(cell.snapshot().request_id.as_deref(), Some("r-1"));
    }
    /// The stall of an operation that nobody told of any news.
    fn stall(cell: &ProgressCell) -> Error {
        let limit = Duration::from_secs(10);
        let stalled = cell.patience(Timestamp::ORIGIN.after(limit), limit, || None);
        stalled.expect_err("silence for the whole limit is a stall")
    }

    #[test]
    fn a_stall_says_not_sent_only_while_nothing_can_be_at_the_server_nor_will_be() {
        let fresh = || ProgressCell::new(Timestamp::ORIGIN);
        let cell = fresh();
        assert_eq!(stall(&cell).sent(), Sent::NotSent);
        cell.leaving().stayed();
        cell.enter(Phase::Admission);
        assert_eq!(stall(&cell).sent(), Sent::NotSent, "it stayed here");

        let leaving = cell.leaving();
        assert_eq!(stall(&cell).sent(), Sent::MaybeSent, "it is on its way");
        drop(leaving);
        cell.enter(Phase::Admission);
        cell.leaving().stayed();
        let later = stall(&cell);
        assert_eq!(
            later.sent(),
            Sent::MaybeSent,
            "what an earlier attempt did is kept"
        );

        // Two chunks share a cell: one is accepted, the other waits for its turn.
        let cell = fresh();
        cell.accepted(Timestamp::ORIGIN, "r-1");
        cell.enter(Phase::Admission);
        assert_eq!(stall(&cell).sent(), Sent::MaybeSent);

        let cell = fresh();
        cell.will_be_sent();
        let queued = stall(&cell);
        assert_eq!(queued.sent(), Sent::MaybeSent);
        assert_eq!(queued.stalled().map(|s| s.phase), Some(Phase::Admission));
    }
}
