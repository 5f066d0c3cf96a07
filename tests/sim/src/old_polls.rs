//! Faults of clients in the task of the shared poll. It is known by the requests that it makes.

use std::cell::RefCell;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use tinkers::SessionContext;
use tinkers_core::{BoxFuture, Clock, Spawn, Task, Timestamp};

use crate::watch::{Rule, Watch};

thread_local! {
    /// The task of a faulty client that is being polled.
    static CURRENT: RefCell<Option<Arc<PollTask>>> = const { RefCell::new(None) };
}

/// A task of a faulty client.
#[derive(Debug, Default)]
pub(crate) struct PollTask {
    makes_shared_polls: AtomicBool,
    ends: AtomicBool,
}

impl PollTask {
    /// The one that is being polled.
    pub(crate) fn current() -> Option<Arc<Self>> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// It makes a shared poll.
    pub(crate) fn polls(&self) {
        self.makes_shared_polls.store(true, Ordering::Relaxed);
    }

    /// It ends when it next has to wait.
    pub(crate) fn end(&self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

/// The spawner of a faulty client.
#[derive(Debug)]
pub(crate) struct PollTasks(pub(crate) Arc<dyn SessionContext>);

impl Spawn for PollTasks {
    fn spawn(&self, work: BoxFuture<'static, ()>) -> Task {
        let task = Arc::new(PollTask::default());
        let mut work = Some(work);
        let watched = poll_fn(move |cx| {
            let Some(running) = &mut work else {
                return Poll::Ready(());
            };
            let polled = {
                let _restored = Restored(CURRENT.replace(Some(Arc::clone(&task))));
                running.as_mut().poll(cx)
            };
            if polled.is_pending() && task.ends.load(Ordering::Relaxed) {
                work = None;
                return Poll::Ready(());
            }
            polled
        });
        self.0.spawner().spawn(Box::pin(watched))
    }
}

struct Restored(Option<Arc<PollTask>>);

impl Drop for Restored {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// Time without pauses between shared polls, until that is found.
#[derive(Debug)]
pub(crate) struct NoPauses {
    pub(crate) time: Arc<dyn Clock>,
    pub(crate) watch: Watch,
}

/// What is longer is no pause between polls.
const LONGEST_PAUSE: Duration = Duration::from_millis(2500);

impl Clock for NoPauses {
    fn now(&self) -> Timestamp {
        self.time.now()
    }

    fn wall(&self) -> SystemTime {
        self.time.wall()
    }

    fn sleep_until(&self, at: Timestamp) -> BoxFuture<'static, ()> {
        let polls = |task: Arc<PollTask>| task.makes_shared_polls.load(Ordering::Relaxed);
        let is_skipped = PollTask::current().is_some_and(polls)
            && at.since(self.time.now()) <= LONGEST_PAUSE
            && !self.watch.has_found(Rule::SharedPolls);
        match is_skipped {
            true => Box::pin(std::future::ready(())),
            false => self.time.sleep_until(at),
        }
    }
}
