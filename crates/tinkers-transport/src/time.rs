//! The clock of production: tokio's, so that a paused runtime stands still and virtual time moves dates too.
#![expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the clocks, so that no other has to"
)]

use std::fmt;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use tinkers_core::{BoxFuture, Moment, Time};
use tokio::runtime::Handle;

/// [`Time`] on the clock and the timers of one tokio runtime.
///
/// It can be read and waited on from any thread and any executor, since it enters its own runtime for each call. On a
/// runtime with paused time it stands still with it. Dates are the system's (so a step of the system clock or a suspend
/// shows at once), moved by as much as tokio's clock has run ahead of, or behind, real time: in production that is
/// nothing, under paused time it is all of it.
///
/// All clocks of a process count from one origin, so that clients on different runtimes can share limits.
#[derive(Clone)]
pub struct TokioTime {
    handle: Handle,
    origin: Instant,
}

static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

impl TokioTime {
    /// The clock of the runtime of `handle`, which must have its time driver enabled.
    pub fn new(handle: Handle) -> Self {
        Self {
            handle,
            origin: *ORIGIN,
        }
    }
}

impl Time for TokioTime {
    fn now(&self) -> Moment {
        let _runtime = self.handle.enter();
        Moment::from_origin(
            tokio::time::Instant::now()
                .into_std()
                .saturating_duration_since(self.origin),
        )
    }

    fn wall(&self) -> SystemTime {
        let virtual_elapsed = self.now().since_origin();
        let real_elapsed = Instant::now().saturating_duration_since(self.origin);
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

    fn sleep_until(&self, at: Moment) -> BoxFuture<'static, ()> {
        let _runtime = self.handle.enter();
        // Beyond what the platform's clock can say is for ever: thirty years, as tokio does.
        let at = self
            .origin
            .checked_add(at.since_origin())
            .unwrap_or_else(|| self.origin + Duration::from_secs(86_400 * 365 * 30));
        Box::pin(tokio::time::sleep_until(at.into()))
    }
}

impl fmt::Debug for TokioTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokioTime")
            .field("now", &self.now())
            .finish_non_exhaustive()
    }
}

/// Readings this near to each other are the same instant.
const SAME: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn paused_time_moves_the_clock_the_sleeps_and_the_date() {
        let time: Arc<dyn Time> = Arc::new(TokioTime::new(Handle::current()));
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
        let time = TokioTime::new(runtime.handle().clone());
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
        let time = TokioTime::new(runtime.handle().clone());
        drop(time.sleep_until(Moment::from_origin(Duration::MAX)));
    }
}
