//! The production clock, on the clock and timers of tokio.
#![expect(
    clippy::disallowed_methods,
    reason = "the only place that reads the clocks"
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

use crate::shared_runtime;

/// A [`Clock`] that uses the time and the timers of a tokio runtime.
///
/// The clock works on any thread and any executor, since each call enters the runtime. If a test pauses the time of the runtime, the clock
/// and its date follow the simulated time. Otherwise the date is that of the system.
///
/// All clocks of a process have the same origin, so that clients on different runtimes can share limits.
///
/// The clock works beyond the end of its runtime: sleeps then continue on the timers of [`IoRuntime::shared`](crate::IoRuntime::shared), so
/// that waiting tasks can proceed and report that the runtime has ended.
#[derive(Clone)]
pub struct TokioClock {
    /// The state that all clones of the clock share. It is a single pointer, since each sleep holds a clone of the clock, and there may be
    /// many sleeps.
    inner: Arc<Inner>,
}

struct Inner {
    handle: Handle,
    origin: Instant,
    /// A task that never completes by itself, by which the clock detects the end of the runtime: a runtime aborts its tasks before it stops
    /// its timers.
    sentinel: AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.sentinel.abort();
    }
}

static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

impl TokioClock {
    /// Creates a clock on the runtime of `handle`. The time driver of the runtime must be enabled.
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

    /// Enters the runtime of the clock on the calling thread. Returns `None` in the destructor of a thread-local variable if tokio's own
    /// thread-local variable is already destroyed: entering the runtime would panic there, and the process would abort.
    fn enter(&self) -> Option<EnterGuard<'_>> {
        match Handle::try_current() {
            Err(error) if error.is_thread_local_destroyed() => None,
            _ => Some(self.inner.handle.enter()),
        }
    }

    /// Creates a timer of the runtime that ends at `at`. Returns `None` if the calling thread cannot enter the runtime.
    fn timer(&self, at: Timestamp) -> Option<Sleep> {
        let origin = self.inner.origin;
        // A time beyond the range of the platform is replaced by thirty years, as in tokio.
        let instant = origin
            .checked_add(at.since_origin())
            .unwrap_or_else(|| origin + Duration::from_secs(86_400 * 365 * 30));
        let _runtime = self.enter()?;
        Some(tokio::time::sleep_until(instant.into()))
    }

    /// Waits until `at` in a task of the runtime. Used on a thread that cannot enter the runtime.
    async fn wait_in_task(&self, at: Timestamp) {
        let sleep = self.sleep_until(at);
        if self.inner.handle.spawn(sleep).await.is_err() {
            self.wait_on_shared_runtime(at).await;
        }
    }

    /// Polls a timer of the runtime. Returns `None` if the runtime has ended: polling the timer would panic.
    fn poll_timer(&self, sleep: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<Option<()>> {
        if self.inner.sentinel.is_finished() {
            return Poll::Ready(None);
        }
        // The runtime may end between the check and the poll.
        match catch_unwind(AssertUnwindSafe(|| sleep.poll(cx))) {
            Ok(polled) => polled.map(Some),
            Err(_) => Poll::Ready(None),
        }
    }

    /// Waits until `at` on the timers of the shared runtime. Used after the clock's own runtime has ended.
    async fn wait_on_shared_runtime(&self, at: Timestamp) {
        let left = at.since(self.now());
        match shared_runtime::handle() {
            Ok(handle) => {
                let shared = Self::new(handle);
                shared.sleep_until(shared.now().after(left)).await;
            }
            Err(error) => tracing::warn!(%error, "no timer is available; a wait ends early"),
        }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        let now = match self.enter() {
            Some(_runtime) => tokio::time::Instant::now().into_std(),
            // The same unless time is paused.
            None => Instant::now(),
        };
        Timestamp::from_origin(now.saturating_duration_since(self.inner.origin))
    }

    fn wall(&self) -> SystemTime {
        let virtual_elapsed = self.now().since_origin();
        let real_elapsed = Instant::now().saturating_duration_since(self.inner.origin);
        let wall = SystemTime::now();
        // The clocks are not read at the same time, so a small difference is not virtual time.
        match virtual_elapsed.checked_sub(real_elapsed) {
            Some(ahead) if ahead > TOLERANCE => wall.checked_add(ahead).unwrap_or(wall),
            Some(_) => wall,
            None if real_elapsed - virtual_elapsed > TOLERANCE => wall
                .checked_sub(real_elapsed - virtual_elapsed)
                .unwrap_or(wall),
            None => wall,
        }
    }

    fn sleep_until(&self, at: Timestamp) -> BoxFuture<'static, ()> {
        let clock = self.clone();
        Box::pin(async move {
            // Created inside the block, since captured values are stored twice, and there are many sleeps.
            let Some(timer) = clock.timer(at) else {
                return Box::pin(clock.wait_in_task(at)).await;
            };
            let mut timer = pin!(timer);
            let elapsed = poll_fn(|cx| clock.poll_timer(timer.as_mut(), cx)).await;
            if elapsed.is_none() {
                Box::pin(clock.wait_on_shared_runtime(at)).await;
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

/// The maximum difference between two clock readings that the tests regard as simultaneous.
const TOLERANCE: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block_on;

    #[tokio::test(start_paused = true)]
    async fn tokio_clock_and_its_date_follow_paused_time() {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::new(Handle::current()));
        let (before, wall) = (clock.now(), clock.wall());
        clock.sleep(Duration::from_secs(3600)).await;
        assert_eq!(clock.now().since(before).as_secs(), 3600);
        let moved = clock
            .wall()
            .duration_since(wall)
            .expect("the date moved on");
        assert!(moved >= Duration::from_secs(3599), "{moved:?}");
    }

    #[test]
    fn sleep_of_the_tokio_clock_ends_outside_of_a_runtime() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let clock = TokioClock::new(runtime.handle().clone());
        let at = clock.now().after(Duration::from_millis(5));
        let sleep = clock.sleep_until(at);
        let woke = std::thread::spawn(move || {
            block_on(sleep);
            clock.now()
        });
        assert!(woke.join().expect("the sleep ended") >= at);
    }

    #[test]
    fn sleep_until_the_maximum_timestamp_of_the_clock_does_not_panic() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let clock = TokioClock::new(runtime.handle().clone());
        drop(clock.sleep_until(Timestamp::from_origin(Duration::MAX)));
    }

    #[test]
    fn sleep_ends_on_time_even_if_its_runtime_has_ended() {
        for threads in [0, 1] {
            let mut builder = match threads {
                0 => tokio::runtime::Builder::new_current_thread(),
                _ => tokio::runtime::Builder::new_multi_thread(),
            };
            let runtime = builder.enable_all().build().expect("a runtime");
            let clock = TokioClock::new(runtime.handle().clone());
            let at = clock.now().after(Duration::from_millis(5));
            let mut begun = clock.sleep_until(at);
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let _ = begun.as_mut().poll(&mut cx);
            let made = clock.sleep_until(at);
            let waiting = std::thread::spawn(move || block_on(begun));
            drop(runtime);
            waiting.join().expect("no panic");
            for sleep in [made, clock.sleep_until(at)] {
                block_on(sleep);
                assert!(clock.now() >= at);
            }
            let late = TokioClock::new(clock.inner.handle.clone());
            block_on(late.sleep_until(at));
        }
    }

    #[tokio::test]
    async fn dropped_tokio_clock_leaves_no_task() {
        let handle = Handle::current();
        let before = handle.metrics().num_alive_tasks();
        let clock = TokioClock::new(handle.clone());
        assert_eq!(handle.metrics().num_alive_tasks(), before + 1);
        let sleep = clock.sleep_until(clock.now());
        drop(clock);
        sleep.await;
        tokio::task::yield_now().await;
        assert_eq!(handle.metrics().num_alive_tasks(), before);
    }
}
