//! Tasks on a runtime of several threads: started, ended from outside, and counted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tinkers_core::BoxFuture;
use tokio::runtime::{Builder, Runtime};
use tokio::task::{AbortHandle, JoinHandle};

use crate::watch::{Stopwatch, nap};

/// How tasks ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Finished {
    /// By themselves.
    pub done: u64,
    /// From outside.
    pub aborted: u64,
    /// By a panic.
    pub panicked: u64,
    /// Not at all: nothing happened any more, and they were given up.
    pub stuck: u64,
}

/// A runtime, and what runs on it.
#[derive(Debug)]
pub struct Tasks {
    runtime: Runtime,
    started: Mutex<Vec<JoinHandle<()>>>,
    aborts: Aborts,
}

/// Who is to be ended at which progress. Clones are the same list.
#[derive(Debug, Clone, Default)]
pub struct Aborts(Arc<Mutex<Due>>);

#[derive(Debug, Default)]
struct Due {
    progress: usize,
    handles: BTreeMap<usize, Vec<AbortHandle>>,
}

impl Aborts {
    /// The run has come to `progress`: ends whoever is to be ended by then.
    pub fn come_to(&self, progress: usize) {
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
    /// More threads than this machine has, so that they are stopped at any point.
    const THREADS: usize = 4;
    /// Without any progress for so long nothing will come any more.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// A runtime without tasks.
    pub fn new() -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(Self::THREADS)
            .build();
        Self {
            runtime: runtime.expect("a machine that runs tests has four threads"),
            started: Mutex::default(),
            aborts: Aborts::default(),
        }
    }

    /// To be told of the progress of the run.
    pub fn aborts(&self) -> Aborts {
        self.aborts.clone()
    }

    /// Starts `work`, to be ended when the progress of the run is `abort_at`.
    pub fn spawn(&self, work: BoxFuture<'static, ()>, abort_at: Option<usize>) {
        let join = self.runtime.spawn(work);
        let handle = join.abort_handle();
        self.lock().push(join);
        if let Some(at) = abort_at {
            self.aborts.add(at, handle);
        }
    }

    /// Waits until `expected` tasks were started and have ended. `alive` changes as long as anything happens; `tick` is called
    /// now and then.
    pub fn finish(
        &self,
        expected: usize,
        alive: impl Fn() -> usize,
        mut tick: impl FnMut(),
    ) -> Finished {
        let (mut seen, mut since, mut first) = (alive(), Stopwatch::start(), 0);
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
            if now != seen {
                (seen, since) = (now, Stopwatch::start());
            } else if since.elapsed() > Self::PATIENCE {
                is_stuck = true;
            }
            nap();
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
