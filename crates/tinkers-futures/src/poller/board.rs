//! Who waits for what, what came, and what the server is still to be told. No I/O: the task of `drive` writes here, waiters read. Its models
//! are in `tests/loom.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU64;
use std::sync::{Arc, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use tinkers_core::contain::wake_all;
use tinkers_core::{Error, ErrorKind, ProgressCell, Result, Sent, Timestamp};
use tinkers_wire::{Completion, CompletionState, Completions};
use tokio::sync::Notify;

use crate::sync::{Mutex, MutexGuard};

/// What is known of a result before it is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CompletionNotice {
    /// Its size in bytes, when it is there and the server said so. The rest shows when it is fetched.
    pub size: Option<NonZeroU64>,
}

/// The most completions that are kept for waiters to come.
const MOST_EARLY: usize = 16_384;
/// The most ids that wait to be acknowledged; the server frees the rest by itself, later.
const MOST_RETRIEVED: usize = 65_536;
/// The most ids that one poll acknowledges.
const MOST_REPORTED: usize = 4096;

/// What the task has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Nothing.
    Idle,
    /// To tell the server what was seen and fetched.
    Acknowledge,
    /// To wait with those who wait.
    Wait,
}

/// What a poll says for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) cursor: i64,
    pub(super) retrieved: Vec<Arc<str>>,
}

/// What an answer of the server brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Answered {
    /// How many waiters it told of their results.
    pub(super) waiters: usize,
    /// Whether its cursor was the first one that is ignored.
    pub(super) first_bad_cursor: bool,
}

/// The state that waiters and the task share.
#[derive(Default)]
pub(super) struct Board {
    state: Mutex<State>,
    work: Notify,
    closed: Notify,
}

#[derive(Default)]
struct State {
    watched: BTreeMap<Arc<str>, Watched>,
    /// How many of these wait.
    waiting: usize,
    /// Nobody has waited for longer than since then.
    oldest: Timestamp,
    early: BTreeMap<String, (u64, CompletionNotice)>,
    /// Those in the order in which they came.
    arrivals: BTreeMap<u64, String>,
    arrived: u64,
    /// How many early ones had to go.
    evictions: u64,
    retrieved: BTreeSet<Arc<str>>,
    /// The highest one that the server told.
    cursor: i64,
    /// The highest one that told of something new, and that the server is to be told of.
    owed: i64,
    acknowledged: i64,
    has_bad_cursor: bool,
    /// The shared poll rests: all poll for themselves.
    suspended: bool,
    ended: Option<Error>,
    closed: bool,
}

enum Watched {
    Waiting {
        progress: Arc<ProgressCell>,
        since: Timestamp,
        waker: Option<Waker>,
    },
    Announced(CompletionNotice),
}

impl Board {
    /// How many evictions there were when a submission began; or why nobody can wait any more.
    pub(super) fn begin(&self) -> Result<u64> {
        let state = self.lock();
        match &state.ended {
            Some(ended) => Err(ended.clone().with_sent(Sent::NotSent)),
            None => Ok(state.evictions),
        }
    }

    /// A new waiter, of a submission that began after so many evictions.
    pub(super) fn watch(
        &self,
        evictions: u64,
        id: Arc<str>,
        progress: &Arc<ProgressCell>,
        now: Timestamp,
    ) -> Result<()> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.watched.contains_key(&id) {
            let message =
                "the server gave the same request id twice while its result was waited for";
            return Err(
                Error::new(ErrorKind::Protocol, Sent::Answered, message).with_request_id(&*id)
            );
        }
        let watched = match state.take_early(&id) {
            Some(announcement) => Watched::Announced(announcement),
            // Its completion may be among those that had to go, or is not looked for.
            None if evictions != state.evictions || state.suspended => {
                Watched::Announced(CompletionNotice::default())
            }
            None => {
                if state.waiting == 0 {
                    state.oldest = now;
                }
                state.waiting += 1;
                Watched::Waiting {
                    progress: Arc::clone(progress),
                    since: now,
                    waker: None,
                }
            }
        };
        state.watched.insert(id, watched);
        drop(guard);
        self.work.notify_one();
        Ok(())
    }

    /// Whether the one who waits for `id` has been told of it.
    pub(super) fn poll(&self, id: &str, waker: &Waker) -> Poll<Result<CompletionNotice>> {
        let mut guard = self.lock();
        let State { watched, ended, .. } = &mut *guard;
        match (watched.get_mut(id), ended) {
            (Some(Watched::Announced(announcement)), _) => Poll::Ready(Ok(*announcement)),
            (_, Some(ended)) => Poll::Ready(Err(ended.clone())),
            (Some(Watched::Waiting { waker: slot, .. }), None) => {
                match slot {
                    Some(known) => known.clone_from(waker),
                    None => *slot = Some(waker.clone()),
                }
                Poll::Pending
            }
            (None, None) => Poll::Ready(Ok(CompletionNotice::default())),
        }
    }

    /// Nobody wants `id` any more: the server is told so.
    pub(super) fn leave(&self, id: &Arc<str>) {
        let mut state = self.lock();
        if let Some(Watched::Waiting { .. }) = state.watched.remove(id) {
            state.waiting -= 1;
        }
        if state.ended.is_none() && state.retrieved.len() < MOST_RETRIEVED {
            state.retrieved.insert(Arc::clone(id));
        }
        drop(state);
        self.work.notify_one();
    }

    /// The handle has gone.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.closed.notify_one();
    }

    /// Completes when the handle has gone. For the task alone.
    pub(super) async fn until_closed(&self) {
        while !self.lock().closed {
            self.closed.notified().await;
        }
    }

    /// Completes when there is something to do. For the task alone.
    pub(super) async fn until_work(&self) -> Work {
        loop {
            match self.lock().work() {
                Work::Idle => {}
                work => return work,
            }
            self.work.notified().await;
        }
    }

    /// Completes when somebody waits. For the task alone.
    pub(super) async fn until_waiting(&self) {
        while self.lock().work() != Work::Wait {
            self.work.notified().await;
        }
    }

    /// What is to be done now.
    pub(super) fn work(&self) -> Work {
        self.lock().work()
    }

    /// Whether the server is still to be told of something.
    pub(super) fn owes(&self) -> bool {
        self.lock().owes()
    }

    /// What the next poll says. Until [`Board::answered`] it will be said again.
    pub(super) fn report(&self) -> Report {
        let state = self.lock();
        Report {
            cursor: state.cursor,
            retrieved: state
                .retrieved
                .iter()
                .take(MOST_REPORTED)
                .cloned()
                .collect(),
        }
    }

    /// The server has answered the poll that said `report`. Only now the cursor moves, so that what a lost answer told will be
    /// told again, and it only grows: one that goes back is ignored.
    pub(super) fn answered(
        &self,
        now: Timestamp,
        report: &Report,
        answer: Completions,
    ) -> Answered {
        let mut guard = self.lock();
        let state = &mut *guard;
        let mut wakers = Vec::new();
        let mut answered = Answered::default();
        let mut is_new = false;
        let waiting = state.waiting;
        for completion in answer.completions {
            is_new |= state.record(now, completion, &mut wakers);
        }
        answered.waiters = waiting - state.waiting;
        state.acknowledged_by(report);
        if answer.cursor < state.cursor {
            answered.first_bad_cursor = !std::mem::replace(&mut state.has_bad_cursor, true);
        } else {
            state.cursor = answer.cursor;
        }
        if is_new {
            state.owed = state.cursor;
        }
        drop(guard);
        wake_all(wakers);
        answered
    }

    /// The server has answered the poll that said `report`, and nothing else of its answer is of interest.
    pub(super) fn acknowledged(&self, report: &Report) {
        self.lock().acknowledged_by(report);
    }

    /// The shared poll rests: every waiter polls for itself, and so does each that comes.
    pub(super) fn suspend(&self) {
        let mut guard = self.lock();
        guard.suspended = true;
        let wakers = guard.release(|_| true);
        drop(guard);
        wake_all(wakers);
    }

    /// It goes on for those that come.
    pub(super) fn resume(&self) {
        self.lock().suspended = false;
    }

    /// Something that concerns everybody who waits: their waiting begins anew.
    pub(super) fn news_for_all(&self, now: Timestamp) {
        let mut state = self.lock();
        for watched in state.watched.values_mut() {
            if let Watched::Waiting {
                progress, since, ..
            } = watched
            {
                progress.news(now);
                *since = now;
            }
        }
        state.oldest = now;
    }

    /// A waiter of `limit` or longer polls for itself: should its completion have been lost, this finds out.
    pub(super) fn release_overdue(&self, now: Timestamp, limit: Duration) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.waiting == 0 || now.since(state.oldest) < limit {
            return;
        }
        let mut oldest = now;
        let wakers = state.release(|since| {
            let is_overdue = now.since(since) >= limit;
            if !is_overdue {
                oldest = oldest.min(since);
            }
            is_overdue
        });
        state.oldest = oldest;
        drop(guard);
        wake_all(wakers);
    }

    /// The task has ended: everybody who waits gets `error`, and so does everybody who comes later. The first end counts.
    pub(super) fn end(&self, error: Error) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.ended.is_some() {
            return;
        }
        state.ended = Some(error);
        let wakers: Vec<Waker> = state
            .watched
            .values_mut()
            .filter_map(|watched| match watched {
                Watched::Waiting { waker, .. } => waker.take(),
                Watched::Announced(_) => None,
            })
            .collect();
        drop(guard);
        wake_all(wakers);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn owes(&self) -> bool {
        !self.retrieved.is_empty() || self.owed > self.acknowledged
    }

    fn acknowledged_by(&mut self, report: &Report) {
        for id in &report.retrieved {
            self.retrieved.remove(id);
        }
        self.acknowledged = self.acknowledged.max(report.cursor);
    }

    /// Has the waiters of which `is_released` says so, by when they came, poll for themselves.
    fn release(&mut self, mut is_released: impl FnMut(Timestamp) -> bool) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for watched in self.watched.values_mut() {
            let Watched::Waiting { since, waker, .. } = watched else {
                continue;
            };
            if is_released(*since) {
                wakers.extend(waker.take());
                *watched = Watched::Announced(CompletionNotice::default());
                self.waiting -= 1;
            }
        }
        wakers
    }

    fn work(&self) -> Work {
        if self.waiting > 0 {
            Work::Wait
        } else if self.owes() {
            Work::Acknowledge
        } else {
            Work::Idle
        }
    }

    /// Takes note of a completion, which may come more than once. Whether it is new.
    fn record(&mut self, now: Timestamp, completion: Completion, wakers: &mut Vec<Waker>) -> bool {
        let announcement = CompletionNotice {
            size: match completion.state {
                CompletionState::Finished => completion
                    .response_payload_uncompressed_size
                    .and_then(NonZeroU64::new),
                _ => None,
            },
        };
        let id = completion.request_id;
        match self.watched.get_mut(id.as_str()) {
            Some(watched @ Watched::Waiting { .. }) => {
                let told = std::mem::replace(watched, Watched::Announced(announcement));
                if let Watched::Waiting {
                    progress, waker, ..
                } = told
                {
                    progress.news(now);
                    wakers.extend(waker);
                }
                self.waiting -= 1;
                true
            }
            Some(Watched::Announced(_)) => false,
            // Told again after it was fetched or given up.
            None if self.retrieved.contains(id.as_str()) => false,
            None => self.keep_early(id, announcement),
        }
    }

    fn keep_early(&mut self, id: String, announcement: CompletionNotice) -> bool {
        if self.early.contains_key(&id) {
            return false;
        }
        self.arrived += 1;
        self.arrivals.insert(self.arrived, id.clone());
        self.early.insert(id, (self.arrived, announcement));
        if self.early.len() > MOST_EARLY
            && let Some((_, oldest)) = self.arrivals.pop_first()
        {
            self.early.remove(&oldest);
            self.evictions += 1;
        }
        true
    }

    fn take_early(&mut self, id: &str) -> Option<CompletionNotice> {
        let (arrived, announcement) = self.early.remove(id)?;
        self.arrivals.remove(&arrived);
        Some(announcement)
    }
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Board")
            .field("waiting", &state.waiting)
            .field("early", &state.early.len())
            .field("to_acknowledge", &state.retrieved.len())
            .field("ended", &state.ended)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(tinkers_loom)))]
#[path = "board/tests.rs"]
mod tests;
