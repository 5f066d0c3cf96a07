//! Bugs of the task that makes shared polls. A task is recognized by the requests that it sends.

use std::cell::RefCell;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use tinkers::SessionContext;
use tinkers_core::{BoxFuture, Clock, Spawn, Task, Timestamp};

use crate::invariant::Invariant;
use crate::monitor::Monitor;

thread_local! {
    /// The task, spawned by a [`PollTaskSpawner`], that this thread is polling now, if any.
    static CURRENT: RefCell<Option<Arc<PollTask>>> = const { RefCell::new(None) };
}

/// A task that the client library has spawned. It is marked when it sends a shared poll (a poll for
/// all results of a sampling client).
#[derive(Debug, Default)]
pub(crate) struct PollTask {
    makes_shared_polls: AtomicBool,
    is_aborted: AtomicBool,
}

impl PollTask {
    /// Returns the spawned task that this thread is polling now, or `None` if there is none.
    pub(crate) fn current() -> Option<Arc<Self>> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Records that this task makes shared polls (polls for all results of a sampling client).
    pub(crate) fn mark_shared_poll(&self) {
        self.makes_shared_polls.store(true, Ordering::Relaxed);
    }

    /// Ends the task: drops its future as soon as its current poll returns.
    pub(crate) fn abort(&self) {
        self.is_aborted.store(true, Ordering::Relaxed);
    }
}

/// A spawner that makes each of its tasks available in [`PollTask::current`] while the task is
/// polled, so that the transport can mark or end the task.
#[derive(Debug)]
pub(crate) struct PollTaskSpawner(pub(crate) Arc<dyn SessionContext>);

impl Spawn for PollTaskSpawner {
    fn spawn(&self, future: BoxFuture<'static, ()>) -> Task {
        let task = Arc::new(PollTask::default());
        let mut future = Some(future);
        let tracked = poll_fn(move |cx| {
            let Some(running) = &mut future else {
                return Poll::Ready(());
            };
            let polled = {
                let _guard = RestoreCurrent(CURRENT.replace(Some(Arc::clone(&task))));
                running.as_mut().poll(cx)
            };
            if polled.is_pending() && task.is_aborted.load(Ordering::Relaxed) {
                future = None;
                return Poll::Ready(());
            }
            polled
        });
        self.0.spawner().spawn(Box::pin(tracked))
    }
}

/// A guard that restores the previous value of [`CURRENT`] when it is dropped.
struct RestoreCurrent(Option<Arc<PollTask>>);

impl Drop for RestoreCurrent {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// A clock that skips the pauses between shared polls until the monitor has reported that the rate
/// of shared polls is too high. Implements [`super::Control::UnpacedPolls`].
#[derive(Debug)]
pub(crate) struct PauseSkippingClock {
    pub(crate) inner: Arc<dyn Clock>,
    pub(crate) monitor: Monitor,
}

/// The longest pause between shared polls. The clock does not skip longer sleeps, because they have
/// other purposes.
const MAX_PAUSE: Duration = Duration::from_millis(2500);

impl Clock for PauseSkippingClock {
    fn now(&self) -> Timestamp {
        self.inner.now()
    }

    fn wall(&self) -> SystemTime {
        self.inner.wall()
    }

    fn sleep_until(&self, at: Timestamp) -> BoxFuture<'static, ()> {
        let is_poll_task = |task: Arc<PollTask>| task.makes_shared_polls.load(Ordering::Relaxed);
        let is_skipped = PollTask::current().is_some_and(is_poll_task)
            && at.since(self.inner.now()) <= MAX_PAUSE
            && !self.monitor.has_violation(Invariant::SharedPollRate);
        match is_skipped {
            true => Box::pin(std::future::ready(())),
            false => self.inner.sleep_until(at),
        }
    }
}
