//! Shared outage detection for the requests to an endpoint.
//!
//! While every request fails, exponential backoff keeps most retries asleep for up to 30 s, which would delay them long after the server
//! has recovered. Therefore one pending retry at a time is sent early, as an outage check. The first response releases all other pending
//! retries, spread over 0.5 to 1.5 s.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::admission::RouteClass;
use crate::jitter::Jitter;
use crate::time::{Clock, Timestamp};
use crate::user_code::{catch_panic, wake_all};

/// The minimum duration of an outage. After a shorter series of failures, retries are neither woken early nor sent early as checks of the
/// server.
const MIN_OUTAGE: Duration = Duration::from_secs(2);
/// During an outage one retry at a time is sent early, as a check whether the server responds again. The interval between two such outage
/// checks is the duration of the outage divided by this number, but at least `SHORTEST_INTERVAL` and at most `LONGEST_INTERVAL`.
const CHECKS_PER_OUTAGE: u32 = 20;
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
const LONGEST_INTERVAL: Duration = Duration::from_secs(30);
/// When an outage ends, all pending retries are woken early, and each starts at a random time within a period. The length of the period is
/// this constant times the number of retries, at least `LEAST_SPREAD` and at most `MOST_SPREAD`.
const SPREAD: Duration = Duration::from_micros(500);
const LEAST_SPREAD: Duration = Duration::from_millis(500);
const MOST_SPREAD: Duration = Duration::from_millis(1500);
/// The minimum time between two occasions at which the end of an outage wakes all pending retries early.
const RELEASE_INTERVAL: Duration = Duration::from_secs(10);

/// The outage states of an endpoint, which tell whether its requests currently fail. Each route class has its own state, since the backends
/// of the route classes may fail independently.
#[derive(Debug, Default)]
pub struct Outages([Outage; RouteClass::ALL.len()]);

impl Outages {
    /// Returns the outage state of a route class.
    pub fn of(&self, class: RouteClass) -> &Outage {
        &self.0[class.index()]
    }
}

/// The outage state of one route class: whether its requests currently fail, and which retries wait until the server responds again.
#[derive(Debug, Default)]
pub struct Outage {
    /// Whether an attempt has failed since the last response. If not, recording a response reads only this flag.
    is_failing: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The time of the first failure since the last response.
    since: Option<Timestamp>,
    is_logged: bool,
    /// The earliest time at which a retry may next be sent early, as a check whether the server responds again.
    next_check: Timestamp,
    /// The time of an outage check, an early retry to see whether the server responds again, if the retry chosen for it was dropped before
    /// it was sent. Another pending retry takes the check over.
    vacant_check: Option<Timestamp>,
    /// The number of outages so far whose end woke all pending retries early.
    releases: u64,
    /// The last time at which all pending retries were woken early.
    released_at: Option<Timestamp>,
    /// The length of the period over which the retries were spread when they were last woken early. Each starts at a random time in this
    /// period.
    spread: Duration,
    next_id: u64,
    pending_retries: BTreeMap<u64, Waker>,
}

/// The times that determine how long a retry waits after a failed attempt.
#[derive(Debug, Clone, Copy)]
pub struct OutageBackoff {
    /// The time at which the failed attempt was sent.
    pub sent_at: Timestamp,
    /// The end of the server's retry delay, before which the retry is never sent.
    pub not_before: Timestamp,
    /// The time at which the retry is sent if it is not woken early.
    pub until: Timestamp,
}

impl Outage {
    /// Records a response to a request that was sent at `sent_at`. The response ends a current outage and wakes the pending retries early. Costs
    /// one atomic load if there was no failure.
    pub fn answered(&self, sent_at: Timestamp, now: Timestamp) {
        // If a failure is recorded concurrently, its retry waits for the next response or for its own backoff.
        if !self.is_failing.load(Ordering::Acquire) {
            return;
        }
        let Some((lasted, pending_retries)) = self.ended(sent_at, now) else {
            return;
        };
        let waiting = pending_retries.len();
        // Wakers and subscribers are user code, so they run without the lock, the waiters first.
        wake_all(pending_retries.into_values());
        // A panic of a log subscriber would lose the response, which the limits need for its retry delay.
        catch_panic(|| {
            tracing::debug!(
                lasted_s = lasted.as_secs(),
                waiting,
                "the server answers again"
            );
        });
    }

    /// Ends the outage after a response, unless the end of another outage woke the pending retries less than [`RELEASE_INTERVAL`] ago.
    /// Returns the duration of the outage and the wakers of the pending retries, or `None` if no retries are to be woken.
    fn ended(
        &self,
        sent_at: Timestamp,
        now: Timestamp,
    ) -> Option<(Duration, BTreeMap<u64, Waker>)> {
        let mut state = self.lock();
        let since = state.since?;
        // A response to a request from before the first failure says nothing about the current state of the server.
        if sent_at < since {
            return None;
        }
        let lasted = now.since(since);
        let is_short = lasted < MIN_OUTAGE;
        let before = state.released_at;
        if !is_short && before.is_some_and(|before| now.since(before) < RELEASE_INTERVAL) {
            // The pending retries wait for the first response after that interval.
            return None;
        }
        self.is_failing.store(false, Ordering::Release);
        state.since = None;
        state.next_check = Timestamp::ORIGIN;
        state.vacant_check = None;
        if is_short {
            return None;
        }
        state.is_logged = false;
        state.released_at = Some(now);
        state.releases += 1;
        let pending_retries = std::mem::take(&mut state.pending_retries);
        let count = u32::try_from(pending_retries.len()).unwrap_or(u32::MAX);
        state.spread = SPREAD
            .saturating_mul(count)
            .clamp(LEAST_SPREAD, MOST_SPREAD);
        Some((lasted, pending_retries))
    }

    /// Waits for the backoff of a failed attempt. Returns early if the server has responded to another request, or if this retry is chosen
    /// to check whether the server responds again. If the future is dropped before the check, another pending retry makes the check.
    pub async fn back_off(&self, pause: OutageBackoff, time: &dyn Clock, jitter: &dyn Jitter) {
        let mut sleep = match self.record_failure(time.now(), &pause) {
            RetryWait::Backoff { sleep, is_first } => {
                if is_first {
                    catch_panic(|| {
                        tracing::debug!(
                            "the server is failing; sending some retries early until it responds"
                        );
                    });
                }
                sleep
            }
            RetryWait::UntilRelease => {
                time.sleep_until(self.release_time(&pause, time, jitter))
                    .await;
                return;
            }
        };
        let mut alarm = time.sleep_until(sleep.until);
        let is_released = std::future::poll_fn(|cx| {
            loop {
                if alarm.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(false);
                }
                match sleep.poll_call(cx) {
                    WakeReason::None => return Poll::Pending,
                    WakeReason::Recovered => return Poll::Ready(true),
                    WakeReason::Check(until) => alarm = time.sleep_until(until),
                }
            }
        })
        .await;
        sleep.scheduled_check = None;
        drop(sleep);
        if is_released {
            time.sleep_until(self.release_time(&pause, time, jitter))
                .await;
        }
    }

    /// Returns the time at which a retry starts after it was woken early: after the server's retry delay and a random pause, but not after
    /// the end of its backoff.
    fn release_time(
        &self,
        pause: &OutageBackoff,
        time: &dyn Clock,
        jitter: &dyn Jitter,
    ) -> Timestamp {
        let spread = self.lock().spread.mul_f64(jitter.unit());
        let at = time.now().max(pause.not_before).after(spread);
        at.min(pause.until)
    }

    /// Records a failed attempt, and returns until when or until which event the retry of this attempt waits.
    fn record_failure(&self, now: Timestamp, pause: &OutageBackoff) -> RetryWait<'_> {
        let mut state = self.lock();
        if state.released_at.is_some_and(|at| pause.sent_at < at) {
            // The failed attempt was sent before the last recovery.
            return RetryWait::UntilRelease;
        }
        let since = *state.since.get_or_insert(now);
        self.is_failing.store(true, Ordering::Release);
        let lasted = now.since(since);
        let is_first = lasted >= MIN_OUTAGE && !std::mem::replace(&mut state.is_logged, true);
        let mut sleep = PendingRetry {
            outage: self,
            seen: state.releases,
            id: None,
            not_before: pause.not_before,
            until: pause.until,
            scheduled_check: None,
        };
        let apart = (lasted / CHECKS_PER_OUTAGE).clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL);
        let earliest = now.after(apart).max(since.after(MIN_OUTAGE));
        let check_at = state.next_check.max(earliest);
        if sleep.schedule_check(check_at) {
            state.next_check = check_at.after(apart);
        }
        RetryWait::Backoff { sleep, is_first }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way in which a retry waits after a failed attempt.
enum RetryWait<'a> {
    /// The retry waits until the end of its backoff, unless it is woken early or is chosen to check whether the server responds again.
    Backoff {
        sleep: PendingRetry<'a>,
        /// Whether the caller must log the outage, since this is the first failure after [`MIN_OUTAGE`]. The caller logs it after the lock
        /// is released, since log subscribers are user code.
        is_first: bool,
    },
    /// The server responded to another request after the failed attempt was sent. The retry waits only for the server's retry delay and a
    /// random time.
    UntilRelease,
}

/// A retry that waits for the end of its backoff, and may be woken before.
struct PendingRetry<'a> {
    outage: &'a Outage,
    /// The value of `State::releases` when this retry began to wait. A higher value means that all pending retries were woken early since.
    seen: u64,
    id: Option<u64>,
    not_before: Timestamp,
    until: Timestamp,
    /// The time at which this retry is sent early to check whether the server responds again. `None` if the retry was not chosen for such a
    /// check.
    scheduled_check: Option<Timestamp>,
}

/// The reason why a retry is woken before the end of its backoff.
enum WakeReason {
    /// There is no reason to send the retry: it continues to wait.
    None,
    /// The server responded to another request, so this retry is sent early.
    Recovered,
    /// This retry must be sent at this time, as a check whether the server responds again.
    Check(Timestamp),
}

impl PendingRetry<'_> {
    /// Schedules this retry to be sent at `check_at`, to check whether the server responds again. Only done if `check_at` is before the end
    /// of its backoff and not before the end of the server's retry delay. Returns whether it was done.
    fn schedule_check(&mut self, check_at: Timestamp) -> bool {
        let is_taken = check_at >= self.not_before && check_at < self.until;
        if is_taken {
            self.until = check_at;
            self.scheduled_check = Some(check_at);
        }
        is_taken
    }

    fn poll_call(&mut self, cx: &Context<'_>) -> WakeReason {
        let outage = self.outage;
        // Wakers are user code: cloned before the lock is taken, dropped after it is released.
        let waker = cx.waker().clone();
        let _replaced;
        let mut guard = outage.lock();
        let state = &mut *guard;
        if state.releases != self.seen {
            return WakeReason::Recovered;
        }
        // A dropped check whose time has passed is sent at once.
        let vacant = state
            .vacant_check
            .map(|check_at| check_at.max(self.not_before));
        if let Some(check_at) = vacant
            && self.schedule_check(check_at)
        {
            state.vacant_check = None;
            return WakeReason::Check(check_at);
        }
        let id = *self.id.get_or_insert_with(|| {
            state.next_id += 1;
            state.next_id
        });
        _replaced = state.pending_retries.insert(id, waker);
        WakeReason::None
    }
}

impl Drop for PendingRetry<'_> {
    fn drop(&mut self) {
        let mut removed_waker = None;
        let mut state = self.outage.lock();
        if let Some(id) = self.id {
            removed_waker = state.pending_retries.remove(&id);
        }
        if state.releases == self.seen && self.scheduled_check.is_some() {
            state.vacant_check = self.scheduled_check;
        }
        // The outage check of a dropped retry passes to another pending retry.
        let first = match state.vacant_check {
            Some(_) => state.pending_retries.pop_first(),
            None => None,
        };
        drop(state);
        wake_all(first.into_iter().map(|(_, waker)| waker));
        drop(removed_waker);
    }
}

#[cfg(test)]
mod tests;
