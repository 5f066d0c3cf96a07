//! Time as a parameter: the clock trait, and a manual clock for tests.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use crate::spawn::BoxFuture;
use crate::user_code::wake_all;

/// A point in time on a monotonic clock, measured from the origin of the clock. Timestamps of different clocks cannot be compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(Duration);

impl Timestamp {
    /// The origin of the clock.
    pub const ORIGIN: Self = Self(Duration::ZERO);

    /// Returns the timestamp that is `since_origin` after the origin of the clock.
    pub const fn from_origin(since_origin: Duration) -> Self {
        Self(since_origin)
    }

    /// Returns the time since the origin of the clock.
    pub const fn since_origin(self) -> Duration {
        self.0
    }

    /// Returns the time from `earlier` to this timestamp, or zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Returns the timestamp `delay` later. The sum saturates at the maximum.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(delay))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timestamp({:?})", self.0)
    }
}

/// A source of time and timers. `tinkers-transport` implements it on tokio's clock; [`ManualClock`] is for tests.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// Returns the current time.
    fn now(&self) -> Timestamp;

    /// Returns the current date. It is used for `Retry-After` dates and for timestamps that leave the process.
    fn wall(&self) -> SystemTime;

    /// Waits until the time `at`. Completes at once if `at` has passed. Cancel safe.
    fn sleep_until(&self, at: Timestamp) -> BoxFuture<'static, ()>;
}

impl dyn Clock {
    /// Waits for `delay`.
    pub fn sleep(&self, delay: Duration) -> BoxFuture<'static, ()> {
        self.sleep_until(self.now().after(delay))
    }

    /// Runs `work` until the time `at`. If `work` does not complete in time, drops it and returns `None`.
    pub async fn deadline<F: Future + Send>(&self, at: Timestamp, work: F) -> Option<F::Output> {
        let mut work = std::pin::pin!(work);
        // The timer is created only if `work` is pending, since timers are expensive.
        let mut alarm = None;
        std::future::poll_fn(move |cx| {
            // `work` is polled first: a result exactly at the deadline counts.
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            let alarm = alarm.get_or_insert_with(|| self.sleep_until(at));
            alarm.as_mut().poll(cx).map(|()| None)
        })
        .await
    }
}

/// A clock for tests. Its time changes only by calls of its methods.
#[derive(Clone, Default)]
pub struct ManualClock {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    now: Timestamp,
    next_id: u64,
    sleepers: BTreeMap<(Timestamp, u64), Waker>,
}

impl ManualClock {
    /// Creates a clock at its origin. The date at the origin is the Unix epoch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Advances the time by `step`, and wakes the tasks whose sleep has ended by then.
    pub fn advance(&self, step: Duration) {
        let due = {
            let mut inner = self.lock();
            inner.now = inner.now.after(step);
            let first_later = (inner.now.after(Duration::from_nanos(1)), 0);
            let later = inner.sleepers.split_off(&first_later);
            std::mem::replace(&mut inner.sleepers, later)
        };
        wake_all(due.into_values());
    }

    /// Advances the time to the earliest end of a pending sleep. Returns the new time, or `None` if nothing sleeps.
    pub fn advance_to_next(&self) -> Option<Timestamp> {
        let (at, now) = {
            let inner = self.lock();
            (inner.sleepers.keys().next()?.0, inner.now)
        };
        self.advance(at.since(now));
        Some(at)
    }

    /// Returns the number of pending sleeps, which are waits for a later time of this clock.
    pub fn sleepers(&self) -> usize {
        self.lock().sleepers.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManualClock")
            .field("now", &self.lock().now)
            .finish_non_exhaustive()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.lock().now
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.now().since_origin()
    }

    fn sleep_until(&self, at: Timestamp) -> BoxFuture<'static, ()> {
        Box::pin(ManualSleep {
            clock: self.clone(),
            at,
            id: None,
        })
    }
}

struct ManualSleep {
    clock: ManualClock,
    at: Timestamp,
    id: Option<u64>,
}

impl Future for ManualSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let clock = self.clock.clone();
        let mut inner = clock.lock();
        if inner.now >= self.at {
            if let Some(id) = self.id.take() {
                inner.sleepers.remove(&(self.at, id));
            }
            return Poll::Ready(());
        }
        let id = *self.id.get_or_insert_with(|| {
            inner.next_id += 1;
            inner.next_id
        });
        inner.sleepers.insert((self.at, id), cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for ManualSleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.clock.lock().sleepers.remove(&(self.at, id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user_code::tests::Count;
    use std::sync::atomic::Ordering;

    #[test]
    fn manual_clock_sleep_ends_exactly_at_its_time() {
        let clock = ManualClock::new();
        let woken = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        let time: &dyn Clock = &clock;
        let mut sleep = time.sleep(Duration::from_secs(2));
        assert!(sleep.as_mut().poll(&mut cx).is_pending());
        clock.advance(Duration::from_secs(2) - Duration::from_nanos(1));
        assert_eq!(woken.0.load(Ordering::SeqCst), 0);
        assert!(sleep.as_mut().poll(&mut cx).is_pending());
        clock.advance(Duration::from_nanos(1));
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        assert!(sleep.as_mut().poll(&mut cx).is_ready());
    }

    #[test]
    fn dropped_sleep_is_removed_from_the_manual_clock() {
        let clock = ManualClock::new();
        let mut cx = Context::from_waker(Waker::noop());
        let time: &dyn Clock = &clock;
        let mut sleep = time.sleep(Duration::from_secs(2));
        assert!(sleep.as_mut().poll(&mut cx).is_pending());
        assert_eq!(clock.sleepers(), 1);
        drop(sleep);
        assert_eq!(clock.sleepers(), 0);
    }

    #[test]
    fn future_that_completes_exactly_at_the_deadline_succeeds() {
        let clock = ManualClock::new();
        let mut cx = Context::from_waker(Waker::noop());
        let time: &dyn Clock = &clock;
        let at = Timestamp::from_origin(Duration::from_secs(1));
        let mut both = std::pin::pin!(time.deadline(at, time.sleep_until(at)));
        assert!(both.as_mut().poll(&mut cx).is_pending());
        clock.advance(Duration::from_secs(1));
        assert_eq!(both.as_mut().poll(&mut cx), Poll::Ready(Some(())));
    }
}
