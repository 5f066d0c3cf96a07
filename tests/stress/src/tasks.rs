//! Tasks on a multi-threaded runtime: starts, aborts and counts them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tinkers_core::BoxFuture;
use tokio::runtime::{Builder, Runtime};
use tokio::task::{AbortHandle, JoinHandle};

use crate::stopwatch::{Stopwatch, short_sleep};

/// The numbers of tasks of a run, by the way in which they ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Finished {
    /// The number of tasks that finished their work.
    pub done: u64,
    /// The number of tasks that were aborted as planned.
    pub aborted: u64,
    /// The number of tasks that panicked.
    pub panicked: u64,
    /// The number of tasks that did not end. The run stopped waiting for them, because no task made
    /// progress for some time.
    pub stuck: u64,
}

/// A multi-threaded runtime and the tasks that were spawned on it.
#[derive(Debug)]
pub struct Tasks {
    runtime: Runtime,
    started: Mutex<Vec<JoinHandle<()>>>,
    aborts: Aborts,
}

/// The tasks that are to be aborted during a run. Each is aborted when a planned number of waiters
/// have started to work (the progress of the run). Clones share the list.
#[derive(Debug, Clone, Default)]
pub struct Aborts(Arc<Mutex<Due>>);

#[derive(Debug, Default)]
struct Due {
    progress: usize,
    handles: BTreeMap<usize, Vec<AbortHandle>>,
}

impl Aborts {
    /// Aborts all tasks whose abort is planned for the progress `progress` (the number of waiters
    /// that have started to work) or less.
    pub fn advance(&self, progress: usize) {
        let due = {
            let mut due = self.lock();
            due.progress = due.progress.max(progress);
            let later = due.handles.split_off(&(progress + 1));
            std::mem::replace(&mut due.handles, later)
        };
        due.into_values()
            .flatten()
            .for_each(|handle| handle.abort());
    }

    fn add(&self, at: usize, handle: AbortHandle) {
        let mut due = self.lock();
        if at > due.progress {
            due.handles.entry(at).or_default().push(handle);
        } else {
            drop(due);
            handle.abort();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Due> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tasks {
    /// The number of worker threads. On a machine with fewer cores, the operating system may
    /// preempt the threads at any point.
    const THREADS: usize = 4;
    /// The time without progress after which the remaining tasks count as stuck.
    const STUCK_AFTER: Duration = Duration::from_secs(30);

    /// Creates a runtime without tasks.
    pub fn new() -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(Self::THREADS)
            .build();
        Self {
            runtime: runtime.expect("four threads can be started"),
            started: Mutex::default(),
            aborts: Aborts::default(),
        }
    }

    /// Returns a handle to the tasks that are to be aborted. The caller must call
    /// [`Aborts::advance`] when further waiters have started to work.
    pub fn aborts(&self) -> Aborts {
        self.aborts.clone()
    }

    /// Spawns `work` as a task. The task is aborted when the progress of the run (the number of
    /// waiters that have started to work) reaches `abort_at`.
    pub fn spawn(&self, work: BoxFuture<'static, ()>, abort_at: Option<usize>) {
        let join = self.runtime.spawn(work);
        let handle = join.abort_handle();
        self.lock().push(join);
        if let Some(at) = abort_at {
            self.aborts.add(at, handle);
        }
    }

    /// Waits until `expected` tasks have been spawned and have ended, or no task makes progress any
    /// more. A change of the value that `alive` returns counts as progress. While waiting, calls
    /// `tick` periodically. Returns the numbers of tasks by the way in which they ended.
    pub fn finish(
        &self,
        expected: usize,
        alive: impl Fn() -> usize,
        mut tick: impl FnMut(),
    ) -> Finished {
        let (mut observed, mut since, mut first) = (alive(), Stopwatch::start(), 0);
        let mut is_stuck = false;
        loop {
            tick();
            let started = self.lock();
            while started.get(first).is_some_and(JoinHandle::is_finished) {
                first += 1;
            }
            if first == expected || (is_stuck && started.len() == expected) {
                break;
            }
            drop(started);
            let now = alive();
            if now != observed {
                (observed, since) = (now, Stopwatch::start());
            } else if since.elapsed() > Self::STUCK_AFTER {
                is_stuck = true;
            }
            short_sleep();
        }
        self.reap()
    }

    fn reap(&self) -> Finished {
        let joins = std::mem::take(&mut *self.lock());
        let mut finished = Finished::default();
        for join in joins {
            let is_stuck = !join.is_finished();
            join.abort();
            match self.runtime.block_on(join) {
                _ if is_stuck => finished.stuck += 1,
                Ok(()) => finished.done += 1,
                Err(end) if end.is_panic() => finished.panicked += 1,
                Err(_) => finished.aborted += 1,
            }
        }
        finished
    }

    fn lock(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}
