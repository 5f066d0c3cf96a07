//! The clock of production: tokio's, so that a paused runtime stands still and virtual time moves dates too.
#![expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the clocks, so that no other has to"
)]

use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use tinkers_core::{BoxFuture, Clock, Timestamp};
use tokio::runtime::{EnterGuard, Handle};
use tokio::task::AbortHandle;
use tokio::time::Sleep;

use crate::runtime::IoRuntime;

/// [`Clock`] on the clock and the timers of one tokio runtime.
///
/// It can be read and waited on from any thread and any executor, since it enters its own runtime for each call. On a
/// runtime with paused time it stands still with it. Dates are the system's (so a step of the system clock or a suspend
/// shows at once), moved by as much as tokio's clock has run ahead of, or behind, real time: in production that is
/// nothing, under paused time it is all of it.
///
/// All clocks of a process count from one origin, so that clients on different runtimes can share limits.
///
/// It outlives its runtime: what sleeps then, or later, is woken in time by the timers of [`IoRuntime::shared`], so that it can
/// go on and find that nothing runs any more.
#[derive(Clone)]
pub struct TokioClock {
    /// In one place, since each of many sleeps holds it.
    inner: Arc<Inner>,
}

struct Inner {
    handle: Handle,
    origin: Instant,
    /// Of a task that waits for the end of its runtime, which ends its tasks before its timers.
    sentinel: AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.sentinel.abort();
    }
}

static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

impl TokioClock {
    /// The clock of the runtime of `handle`, which must have its time driver enabled.
    pub fn new(handle: Handle) -> Self {
        let sentinel = handle.spawn(std::future::pending::<()>()).abort_handle();
        Self {
            inner: Arc::new(Inner {
                handle,
                origin: *ORIGIN,
                sentinel,
            }),
        }
    }

    /// Makes this runtime the thread's. `None` in the destructor of a thread-local where tokio's own is gone already: to enter would
    /// panic there, and so abort the process.
    fn enter(&self) -> Option<EnterGuard<'_>> {
        match Handle::try_current() {
            Err(error) if error.is_thread_local_destroyed() => None,
            _ => Some(self.inner.handle.enter()),
        }
    }

    /// A timer of the runtime; `None` where the runtime cannot be entered.
    fn timer(&self, at: Timestamp) -> Option<Sleep> {
        let origin = self.inner.origin;
        // Beyond what the platform's clock can say is for ever: thirty years, as tokio does.
        let instant = origin
            .checked_add(at.since_origin())
            .unwrap_or_else(|| origin + Duration::from_secs(86_400 * 365 * 30));
        let _runtime = self.enter()?;
        Some(tokio::time::sleep_until(instant.into()))
    }

    /// Waits until `at` in a task of the runtime, for a thread that cannot enter it.
    async fn wait_in_task(&self, at: Timestamp) {
        let sleep = self.sleep_until(at);
        if self.inner.handle.spawn(sleep).await.is_err() {
            self.wait_elsewhere(at).await;
        }
    }

    /// Polls a timer of the runtime; `None` when the runtime has ended, where tokio's timers panic.
    fn poll_own(&self, sleep: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<Option<()>> {
        if self.inner.sentinel.is_finished() {
            return Poll::Ready(None);
        }
        // The runtime may end between the look and the poll.
        match catch_unwind(AssertUnwindSafe(|| sleep.poll(cx))) {
            Ok(polled) => polled.map(Some),
            Err(_) => Poll::Ready(None),
        }
    }

    /// Waits for what is left until `at` by other timers than the runtime's own.
    async fn wait_elsewhere(&self, at: Timestamp) {
        let left = at.since(self.now());
        match IoRuntime::shared() {
            Ok(shared) => shared.time().sleep(left).await,
            Err(error) => tracing::warn!(%error, "no timer is left; a wait ends early"),
        }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        let now = match self.enter() {
            Some(_runtime) => tokio::time::Instant::now().into_std(),
            // The same where time is not paused, and the best there is where it is.
            None => Instant::now(),
        };
        Timestamp::from_origin(now.saturating_duration_since(self.inner.origin))
    }

    fn wall(&self) -> SystemTime {
        let virtual_elapsed = self.now().since_origin();
        let real_elapsed = Instant::now().saturating_duration_since(self.inner.origin);
        let date = SystemTime::now();
        // The two clocks are read a moment apart; less than that is no virtual time.
        match virtual_elapsed.checked_sub(real_elapsed) {
            Some(ahead) if ahead > SAME => date.checked_add(ahead).unwrap_or(date),
            Some(_) => date,
            None if real_elapsed - virtual_elapsed > SAME => date
                .checked_sub(real_elapsed - virtual_elapsed)
                .unwrap_or(date),
            None => date,
        }
    }

    fn sleep_until(&self, at: Timestamp) -> BoxFuture<'static, ()> {
        let time = self.clone();
        Box::pin(async move {
            // Made in here, since what is captured would be held twice, and sleeps are many.
            let Some(own) = time.timer(at) else {
                return Box::pin(time.wait_in_task(at)).await;
            };
            let mut own = pin!(own);
            let rang = poll_fn(|cx| time.poll_own(own.as_mut(), cx)).await;
            if rang.is_none() {
                Box::pin(time.wait_elsewhere(at)).await;
            }
        })
    }
}

impl fmt::Debug for TokioClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokioClock")
            .field("now", &self.now())
            .finish_non_exhaustive()
    }
}

/// Readings this near to each other are the same instant.
const SAME: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn paused_time_moves_the_clock_the_sleeps_and_the_date() {
        let time: Arc<dyn Clock> = Arc::new(TokioClock::new(Handle::current()));
        let (before, date) = (time.now(), time.wall());
        time.sleep(Duration::from_secs(3600)).await;
        assert_eq!(time.now().since(before).as_secs(), 3600);
        let moved = time.wall().duration_since(date).expect("the date moved on");
        assert!(moved >= Duration::from_secs(3599), "{moved:?}");
    }

    #[test]
    fn a_sleep_made_and_polled_outside_any_runtime_ends() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let time = TokioClock::new(runtime.handle().clone());
        let at = time.now().after(Duration::from_millis(5));
        let sleep = time.sleep_until(at);
        let woke = std::thread::spawn(move || {
            crate::testing::block_on(sleep);
            time.now()
        });
        assert!(woke.join().expect("the sleep ended") >= at);
    }

    #[test]
    fn the_end_of_time_can_be_waited_for() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let time = TokioClock::new(runtime.handle().clone());
        drop(time.sleep_until(Timestamp::from_origin(Duration::MAX)));
    }

    #[test]
    fn a_sleep_on_a_runtime_that_has_ended_or_ends_is_no_panic_and_ends_in_time() {
        for threads in [0, 1] {
            let mut builder = match threads {
                0 => tokio::runtime::Builder::new_current_thread(),
                _ => tokio::runtime::Builder::new_multi_thread(),
            };
            let runtime = builder.enable_all().build().expect("a runtime");
            let time = TokioClock::new(runtime.handle().clone());
            let at = time.now().after(Duration::from_millis(5));
            let mut begun = time.sleep_until(at);
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let _ = begun.as_mut().poll(&mut cx);
            let made = time.sleep_until(at);
            let waiting = std::thread::spawn(move || crate::testing::block_on(begun));
            drop(runtime);
            waiting.join().expect("no panic");
            for sleep in [made, time.sleep_until(at)] {
                crate::testing::block_on(sleep);
                assert!(time.now() >= at);
            }
            let late = TokioClock::new(time.inner.handle.clone());
            crate::testing::block_on(late.sleep_until(at));
        }
    }

    #[tokio::test]
    async fn a_clock_leaves_no_task_behind() {
        let handle = Handle::current();
        let before = handle.metrics().num_alive_tasks();
        let time = TokioClock::new(handle.clone());
        assert_eq!(handle.metrics().num_alive_tasks(), before + 1);
        let sleep = time.sleep_until(time.now());
        drop(time);
        sleep.await;
        tokio::task::yield_now().await;
        assert_eq!(handle.metrics().num_alive_tasks(), before);
    }
}
