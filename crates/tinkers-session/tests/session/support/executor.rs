//! An executor that polls woken tasks on request, and counts the running tasks.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Wake, Waker};

use tinkers_core::{BoxFuture, Spawn, Task};

/// A waker that sets a flag when it is called, by which the executor knows that the task must be polled.
#[derive(Debug)]
pub(crate) struct WakeFlag(AtomicBool);

impl WakeFlag {
    /// Creates a flag that is already set, so that the executor polls a new task once without a wake-up.
    pub(crate) fn raised() -> Arc<Self> {
        Arc::new(Self(AtomicBool::new(true)))
    }

    /// Clears the flag. Returns whether it was set.
    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A test executor whose tasks make progress only in calls of [`ManualExecutor::poll_woken`]. Clones share the tasks.
#[derive(Clone, Default)]
pub(crate) struct ManualExecutor(Arc<Mutex<Jobs>>);

#[derive(Default)]
struct Jobs {
    next: u64,
    jobs: BTreeMap<u64, Job>,
}

struct Job {
    woken: Arc<WakeFlag>,
    /// The future of the task; `None` while the task is polled.
    work: Option<BoxFuture<'static, ()>>,
}

impl ManualExecutor {
    /// Returns the number of running tasks.
    pub(crate) fn running(&self) -> usize {
        self.lock().jobs.len()
    }

    /// Polls each woken task once. Returns whether any task was polled.
    pub(crate) fn poll_woken(&self) -> bool {
        let ids: Vec<u64> = self.lock().jobs.keys().copied().collect();
        let mut polled = false;
        for id in ids {
            polled |= self.poll(id);
        }
        polled
    }

    fn poll(&self, id: u64) -> bool {
        let (mut work, woken) = {
            let mut jobs = self.lock();
            let Some(job) = jobs.jobs.get_mut(&id).filter(|job| job.woken.take()) else {
                return false;
            };
            let work = job.work.take().expect("a task is polled by one caller");
            (work, Arc::clone(&job.woken))
        };
        let waker = Waker::from(woken);
        let is_done = work
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_ready();
        let mut jobs = self.lock();
        if is_done {
            jobs.jobs.remove(&id);
        } else if let Some(job) = jobs.jobs.get_mut(&id) {
            job.work = Some(work);
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.0.lock().expect("the lock is not poisoned")
    }
}

impl Spawn for ManualExecutor {
    fn spawn(&self, work: BoxFuture<'static, ()>) -> Task {
        let mut jobs = self.lock();
        let id = jobs.next;
        jobs.next += 1;
        let job = Job {
            woken: WakeFlag::raised(),
            work: Some(work),
        };
        jobs.jobs.insert(id, job);
        drop(jobs);
        let executor = self.clone();
        Task::new(move || {
            // Dropped without the lock, since the task may own other tasks.
            let stopped = executor.lock().jobs.remove(&id);
            drop(stopped);
        })
    }
}

impl fmt::Debug for ManualExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManualExecutor").finish_non_exhaustive()
    }
}
