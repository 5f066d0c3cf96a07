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

/// The maximum number of completions that the table stores for requests that are not registered yet; beyond this number, completions are
/// evicted.
const MAX_EARLY: usize = 16_384;
/// The maximum number of request ids that wait to be acknowledged. The server discards results without an acknowledgement later by itself.
const MAX_RETRIEVED: usize = 65_536;
/// The maximum number of retrieved results that one poll acknowledges.
const MAX_ACKNOWLEDGED: usize = 4096;

/// The next step of the task that sends the shared polls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// There is nothing to do, so no poll is sent.
    Idle,
    /// Send a poll that only acknowledges completions up to the cursor, and retrieved results.
    Acknowledge,
    /// Send a poll that waits for completions of registered requests.
    Wait,
}

/// The acknowledgement that a poll carries: the cursor up to which completions were received, and the ids of retrieved results. The server
/// may discard what is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Acknowledgement {
    pub(super) cursor: i64,
    pub(super) retrieved: Vec<Arc<str>>,
}

/// The effect of a poll response on the completion table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Applied {
    /// The number of registered requests that the response reported as completed.
    pub(super) notified: usize,
    /// Whether the response is the first one with an invalid cursor. Invalid cursors are ignored.
    pub(super) is_first_bad_cursor: bool,
}

/// The table of registered requests and reported completions, which the completion handles and the polling task share.
#[derive(Default)]
pub(super) struct CompletionTable {
    state: Mutex<State>,
    work: Notify,
    closed: Notify,
}

#[derive(Default)]
struct State {
    waiters: BTreeMap<Arc<str>, Waiter>,
    /// The number of registered requests whose completion was not reported yet.
    waiting: usize,
    /// A lower bound of the times at which the registered requests began to wait for their completions.
    waiting_since: Timestamp,
    /// The completions of requests that are not registered yet, with their position in `early_order`.
    early: BTreeMap<String, (u64, CompletionNotice)>,
    early_order: BTreeMap<u64, String>,
    next_early: u64,
    /// The number of completions that were evicted from `early` for lack of room.
    evictions: u64,
    /// The ids of requests whose results were retrieved or abandoned. A poll has to acknowledge these ids to the server.
    retrieved: BTreeSet<Arc<str>>,
    /// The highest cursor that the server sent, its position in the list of completions.
    cursor: i64,
    /// The highest cursor that the server sent together with a new completion. A poll has to acknowledge this cursor to the server.
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
    /// Returns the number of completions that were evicted so far. Call this method before a request is submitted, and pass the number to
    /// [`CompletionTable::register`], which detects whether the completion of the request may have been evicted.
    ///
    /// # Errors
    /// The error with which the poller ended.
    pub(super) fn begin(&self) -> Result<u64> {
        let state = self.lock();
        match &state.ended {
            Some(ended) => Err(ended.clone().with_sent(Sent::NotSent)),
            None => Ok(state.evictions),
        }
    }

    /// Registers a request. `evictions` is the number of evicted completions when the submission of the request began.
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

    /// Returns the completion of the request `id` if the server has reported it, and stores `waker` otherwise. If the request is not
    /// registered, returns `Ready` at once.
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

    /// Closes the table: the polling task sends its final acknowledgements and ends.
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

    /// Waits until the polling task has something to do, and returns its next step. For the polling task only.
    pub(super) async fn until_work(&self) -> Work {
        loop {
            match self.lock().work() {
                Work::Idle => {}
                work => return work,
            }
            self.work.notified().await;
        }
    }

    /// Waits until a registered request has no completion yet, so that a poll is needed. For the polling task only.
    pub(super) async fn until_waiting(&self) {
        while self.lock().work() != Work::Wait {
            self.work.notified().await;
        }
    }

    /// Returns the next step of the polling task.
    pub(super) fn work(&self) -> Work {
        self.lock().work()
    }

    /// Returns whether a cursor or a retrieved result has to be acknowledged to the server.
    pub(super) fn has_unacknowledged(&self) -> bool {
        self.lock().has_unacknowledged()
    }

    /// Returns the acknowledgement for the next poll. Each poll repeats the acknowledgement until the response to one of these polls is
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
    /// Only this method moves the cursor, so the server repeats the completions of a response that was lost. A cursor below the current one
    /// is ignored.
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

    /// Records that the server has received `acknowledgement`.
    pub(super) fn acknowledged(&self, acknowledgement: &Acknowledgement) {
        self.lock().acknowledge(acknowledgement);
    }

    /// Suspends the shared poll: all registered requests, and those registered until [`CompletionTable::resume`], are told to poll
    /// individually for their results.
    pub(super) fn suspend(&self) {
        let mut guard = self.lock();
        guard.is_suspended = true;
        let wakers = guard.release(|_| true);
        drop(guard);
        wake_all(wakers);
    }

    /// Ends the suspension of the shared poll. Requests that are registered from now on wait for the shared poll again.
    pub(super) fn resume(&self) {
        self.lock().is_suspended = false;
    }

    /// Restarts the progress deadlines of all registered requests, and the measurement of their wait times.
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

    /// Ends the table: the waits of all registered and later requests fail with `error`. Later calls of this method have no effect.
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

    /// Tells requests to poll individually, if `is_released` returns true for the time at which the request began to wait. Returns the
    /// wakers of these requests.
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
