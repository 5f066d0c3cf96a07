//! The table of waiting requests, of completions that arrived early, and of pending acknowledgements.
//!
//! It does no I/O: the task in `shared_poll` writes to the table, and handles read it. Its loom models are in `tests/loom.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU64;
use std::sync::{Arc, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use tinkers_core::user_code::wake_all;
use tinkers_core::{Error, ErrorKind, ProgressCell, Result, Sent, Timestamp};
use tinkers_wire::{Completion, CompletionState, Completions};
use tokio::sync::Notify;

use crate::sync::{Mutex, MutexGuard};

/// The server's report that an operation has ended. The result is retrieved separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CompletionNotice {
    /// The size of the result in bytes, if the operation succeeded and the server reported a size.
    pub size: Option<NonZeroU64>,
}

/// The maximum number of completions (reports that a request has ended) that the table stores for requests that are not registered yet.
/// Beyond this number, the oldest completion is discarded.
const MAX_EARLY: usize = 16_384;
/// The maximum number of retrieved results whose request ids wait to be acknowledged to the server. Further results are not acknowledged:
/// the server discards them later by itself.
const MAX_RETRIEVED: usize = 65_536;
/// The maximum number of retrieved results that one poll acknowledges.
const MAX_ACKNOWLEDGED: usize = 4096;

/// The next step of the task that sends the shared polls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// There is nothing to do, so no poll is sent.
    Idle,
    /// Send a poll that only acknowledges the completions and results that the client has received. The poll does not wait for new
    /// completions.
    Acknowledge,
    /// Send a poll that waits for completions of registered requests.
    Wait,
}

/// The acknowledgement that a poll carries: the position (cursor) in the server's list of completions up to which the client has received
/// them, and the ids of retrieved results. The server may discard what is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Acknowledgement {
    pub(super) cursor: i64,
    pub(super) retrieved: Vec<Arc<str>>,
}

/// The changes that a poll response has made to the completion table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Applied {
    /// The number of registered requests that the response reported as completed.
    pub(super) notified: usize,
    /// Whether this is the first response whose cursor (the position in the server's list of completions) is lower than an earlier cursor.
    /// Such a cursor is ignored.
    pub(super) is_first_bad_cursor: bool,
}

/// The table of the requests that wait for their results, and of the server's reports that requests have ended (completions). The handles
/// of the requests and the polling task share the table.
#[derive(Default)]
pub(super) struct CompletionTable {
    state: Mutex<State>,
    work: Notify,
    closed: Notify,
}

#[derive(Default)]
struct State {
    waiters: BTreeMap<Arc<str>, Waiter>,
    /// The number of registered requests that the server has not yet reported as completed.
    waiting: usize,
    /// A time at or before which every waiting request began to wait for its completion. Before this time plus the wait limit, no request
    /// can be overdue.
    waiting_since: Timestamp,
    /// The completions (reports that a request has ended) of requests that are not registered yet, each with its key in `early_order`.
    early: BTreeMap<String, (u64, CompletionNotice)>,
    early_order: BTreeMap<u64, String>,
    next_early: u64,
    /// The number of completions that were discarded because `early` was full.
    evictions: u64,
    /// The ids of requests whose results were retrieved or abandoned. A poll has to acknowledge these ids to the server.
    retrieved: BTreeSet<Arc<str>>,
    /// The highest cursor that the server has sent. A cursor is a position in the server's list of completions.
    cursor: i64,
    /// The highest cursor (position in the server's list of completions) that arrived together with a new completion. A poll has to
    /// acknowledge this cursor to the server.
    cursor_to_acknowledge: i64,
    acknowledged_cursor: i64,
    has_bad_cursor: bool,
    /// Whether the shared poll is suspended, so that each request must be polled for individually.
    is_suspended: bool,
    ended: Option<Error>,
    is_closed: bool,
}

enum Waiter {
    Waiting {
        progress: Arc<ProgressCell>,
        since: Timestamp,
        waker: Option<Waker>,
    },
    Notified(CompletionNotice),
}

impl CompletionTable {
    /// Returns the number of completions that were discarded so far because the table was full. Call this method before a request is
    /// submitted, and pass the number to [`CompletionTable::register`], which detects whether the completion of the request may have been
    /// discarded.
    ///
    /// # Errors
    /// The error with which the shared poller ended, if it has ended.
    pub(super) fn begin(&self) -> Result<u64> {
        let state = self.lock();
        match &state.ended {
            Some(ended) => Err(ended.clone().with_sent(Sent::NotSent)),
            None => Ok(state.evictions),
        }
    }

    /// Registers a request that waits for its completion. `evictions` is the number that [`CompletionTable::begin`] returned before the
    /// request was submitted. If completions were discarded since, the request is told to poll individually.
    ///
    /// # Errors
    /// `Protocol` if the id is registered already.
    pub(super) fn register(
        &self,
        evictions: u64,
        id: Arc<str>,
        progress: &Arc<ProgressCell>,
        now: Timestamp,
    ) -> Result<()> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.waiters.contains_key(&id) {
            let message = "the server assigned the same request id to two submissions";
            return Err(
                Error::new(ErrorKind::Protocol, Sent::Answered, message).with_request_id(&*id)
            );
        }
        let waiter = match state.take_early(&id) {
            Some(notice) => Waiter::Notified(notice),
            // The completion may have been evicted, or the shared poll is suspended.
            None if evictions != state.evictions || state.is_suspended => {
                Waiter::Notified(CompletionNotice::default())
            }
            None => {
                // The caller read the clock before it took the lock, so an earlier time may come second.
                state.waiting_since = match state.waiting {
                    0 => now,
                    _ => state.waiting_since.min(now),
                };
                state.waiting += 1;
                Waiter::Waiting {
                    progress: Arc::clone(progress),
                    since: now,
                    waker: None,
                }
            }
        };
        state.waiters.insert(id, waiter);
        drop(guard);
        self.work.notify_one();
        Ok(())
    }

    /// Returns the completion of the request `id` if the server has reported it. Otherwise stores `waker`, to be woken at the end of the
    /// wait. For a request that is not registered, returns a completion without a size at once.
    pub(super) fn poll(&self, id: &str, waker: &Waker) -> Poll<Result<CompletionNotice>> {
        let mut guard = self.lock();
        let State { waiters, ended, .. } = &mut *guard;
        match (waiters.get_mut(id), ended) {
            (Some(Waiter::Notified(notice)), _) => Poll::Ready(Ok(*notice)),
            (_, Some(ended)) => Poll::Ready(Err(ended.clone())),
            (Some(Waiter::Waiting { waker: slot, .. }), None) => {
                match slot {
                    Some(known) => known.clone_from(waker),
                    None => *slot = Some(waker.clone()),
                }
                Poll::Pending
            }
            (None, None) => Poll::Ready(Ok(CompletionNotice::default())),
        }
    }

    /// Removes the registration of the request `id`. One of the next polls acknowledges its result to the server, which may then discard
    /// the result.
    pub(super) fn deregister(&self, id: &Arc<str>) {
        let mut state = self.lock();
        if let Some(Waiter::Waiting { .. }) = state.waiters.remove(id) {
            state.waiting -= 1;
        }
        if state.ended.is_none() && state.retrieved.len() < MAX_RETRIEVED {
            state.retrieved.insert(Arc::clone(id));
        }
        drop(state);
        self.work.notify_one();
    }

    /// Closes the table, so that the polling task acknowledges the remaining results to the server and ends.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.closed.notify_one();
    }

    /// Waits until the table is closed. For the polling task only.
    pub(super) async fn until_closed(&self) {
        while !self.lock().is_closed {
            self.closed.notified().await;
        }
    }

    /// Waits until a poll has to be sent, and returns its kind. For the polling task only.
    pub(super) async fn until_work(&self) -> Work {
        loop {
            match self.lock().work() {
                Work::Idle => {}
                work => return work,
            }
            self.work.notified().await;
        }
    }

    /// Waits until at least one registered request waits for its completion, so that a poll is needed. For the polling task only.
    pub(super) async fn until_waiting(&self) {
        while self.lock().work() != Work::Wait {
            self.work.notified().await;
        }
    }

    /// Returns which kind of poll the polling task has to send next, if any.
    pub(super) fn work(&self) -> Work {
        self.lock().work()
    }

    /// Returns whether a cursor or a retrieved result has to be acknowledged to the server.
    pub(super) fn has_unacknowledged(&self) -> bool {
        self.lock().has_unacknowledged()
    }

    /// Returns the acknowledgement for the next poll. The same acknowledgement is sent with each poll until the response to such a poll is
    /// applied.
    pub(super) fn acknowledgement(&self) -> Acknowledgement {
        let state = self.lock();
        Acknowledgement {
            cursor: state.cursor,
            retrieved: state
                .retrieved
                .iter()
                .take(MAX_ACKNOWLEDGED)
                .cloned()
                .collect(),
        }
    }

    /// Applies the response to a poll that carried `acknowledgement`: wakes the waiters of completed requests, and advances the cursor.
    ///
    /// The cursor is the position in the server's list of completions. If a response is lost, the cursor does not advance, so the server
    /// repeats the completions. A cursor below the current one is ignored.
    pub(super) fn apply(
        &self,
        now: Timestamp,
        acknowledgement: &Acknowledgement,
        response: Completions,
    ) -> Applied {
        let mut guard = self.lock();
        let state = &mut *guard;
        let mut wakers = Vec::new();
        let mut applied = Applied::default();
        let mut is_new = false;
        let waiting = state.waiting;
        for completion in response.completions {
            is_new |= state.record(now, completion, &mut wakers);
        }
        applied.notified = waiting - state.waiting;
        state.acknowledge(acknowledgement);
        if response.cursor < state.cursor {
            applied.is_first_bad_cursor = !std::mem::replace(&mut state.has_bad_cursor, true);
        } else {
            state.cursor = response.cursor;
        }
        if is_new {
            state.cursor_to_acknowledge = state.cursor;
        }
        drop(guard);
        wake_all(wakers);
        applied
    }

    /// Records that the server has received `acknowledgement`, so that later polls do not repeat it.
    pub(super) fn acknowledged(&self, acknowledgement: &Acknowledgement) {
        self.lock().acknowledge(acknowledgement);
    }

    /// Suspends the shared poll. All registered requests, and requests that are registered before [`CompletionTable::resume`] is called,
    /// must poll individually for their results.
    pub(super) fn suspend(&self) {
        let mut guard = self.lock();
        guard.is_suspended = true;
        let wakers = guard.release(|_| true);
        drop(guard);
        wake_all(wakers);
    }

    /// Ends the suspension of the shared poll, which then reports the completions of requests again. Requests that were told to poll
    /// individually continue to do so.
    pub(super) fn resume(&self) {
        self.lock().is_suspended = false;
    }

    /// Restarts the progress deadlines and the wait times of all registered requests. Called when the server delays the shared poll, so
    /// that this delay does not make an operation fail as stalled.
    pub(super) fn reset_deadlines(&self, now: Timestamp) {
        let mut state = self.lock();
        for waiter in state.waiters.values_mut() {
            if let Waiter::Waiting {
                progress, since, ..
            } = waiter
            {
                progress.record_response(now);
                *since = now;
            }
        }
        state.waiting_since = now;
    }

    /// Tells the registered requests that have waited for `limit` or longer to poll individually, since their completions may be lost.
    pub(super) fn release_overdue(&self, now: Timestamp, limit: Duration) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.waiting == 0 || now.since(state.waiting_since) < limit {
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
        state.waiting_since = oldest;
        drop(guard);
        wake_all(wakers);
    }

    /// Ends the table: requests that wait for a completion now or later fail with `error`. Later calls of this method have no effect.
    pub(super) fn end(&self, error: Error) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.ended.is_some() {
            return;
        }
        state.ended = Some(error);
        let wakers: Vec<Waker> = state
            .waiters
            .values_mut()
            .filter_map(|waiter| match waiter {
                Waiter::Waiting { waker, .. } => waker.take(),
                Waiter::Notified(_) => None,
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
    fn has_unacknowledged(&self) -> bool {
        !self.retrieved.is_empty() || self.cursor_to_acknowledge > self.acknowledged_cursor
    }

    fn acknowledge(&mut self, acknowledgement: &Acknowledgement) {
        for id in &acknowledgement.retrieved {
            self.retrieved.remove(id);
        }
        self.acknowledged_cursor = self.acknowledged_cursor.max(acknowledgement.cursor);
    }

    /// Tells waiting requests to poll individually. `is_released` selects them by the time at which they began to wait. Returns the wakers
    /// of these requests.
    fn release(&mut self, mut is_released: impl FnMut(Timestamp) -> bool) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for waiter in self.waiters.values_mut() {
            let Waiter::Waiting { since, waker, .. } = waiter else {
                continue;
            };
            if is_released(*since) {
                wakers.extend(waker.take());
                *waiter = Waiter::Notified(CompletionNotice::default());
                self.waiting -= 1;
            }
        }
        wakers
    }

    fn work(&self) -> Work {
        if self.waiting > 0 {
            Work::Wait
        } else if self.has_unacknowledged() {
            Work::Acknowledge
        } else {
            Work::Idle
        }
    }

    /// Records a completion that the server has reported. Returns false for a completion that is known already, since the server may repeat
    /// completions.
    fn record(&mut self, now: Timestamp, completion: Completion, wakers: &mut Vec<Waker>) -> bool {
        let notice = CompletionNotice {
            size: match completion.state {
                CompletionState::Finished => completion
                    .response_payload_uncompressed_size
                    .and_then(NonZeroU64::new),
                _ => None,
            },
        };
        let id = completion.request_id;
        match self.waiters.get_mut(id.as_str()) {
            Some(waiter @ Waiter::Waiting { .. }) => {
                let waiting = std::mem::replace(waiter, Waiter::Notified(notice));
                if let Waiter::Waiting {
                    progress, waker, ..
                } = waiting
                {
                    progress.record_response(now);
                    wakers.extend(waker);
                }
                self.waiting -= 1;
                true
            }
            Some(Waiter::Notified(_)) => false,
            // The server has repeated the completion after the result was retrieved or abandoned.
            None if self.retrieved.contains(id.as_str()) => false,
            None => self.keep_early(id, notice),
        }
    }

    fn keep_early(&mut self, id: String, notice: CompletionNotice) -> bool {
        if self.early.contains_key(&id) {
            return false;
        }
        self.next_early += 1;
        self.early_order.insert(self.next_early, id.clone());
        self.early.insert(id, (self.next_early, notice));
        if self.early.len() > MAX_EARLY
            && let Some((_, oldest)) = self.early_order.pop_first()
        {
            self.early.remove(&oldest);
            self.evictions += 1;
        }
        true
    }

    fn take_early(&mut self, id: &str) -> Option<CompletionNotice> {
        let (position, notice) = self.early.remove(id)?;
        self.early_order.remove(&position);
        Some(notice)
    }
}

impl fmt::Debug for CompletionTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("CompletionTable")
            .field("waiting", &state.waiting)
            .field("early", &state.early.len())
            .field("retrieved", &state.retrieved.len())
            .field("ended", &state.ended)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(tinkers_loom)))]
#[path = "completion_table/tests.rs"]
mod tests;
