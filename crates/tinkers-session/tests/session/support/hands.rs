//! An executor that polls what was woken when it is told to, and counts what still runs.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Wake, Waker};

use tinkers_core::{BoxFuture, Spawn, Task};

/// Whether somebody was woken.
#[derive(Debug)]
pub(crate) struct Flag(AtomicBool);

impl Flag {
    /// Up, as for a task that was never polled.
    pub(crate) fn raised() -> Arc<Self> {
        Arc::new(Self(AtomicBool::new(true)))
    }

    /// Whether it was up; it is down now.
    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The executor; clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct Hands(Arc<Mutex<Jobs>>);

#[derive(Default)]
struct Jobs {
    next: u64,
    jobs: BTreeMap<u64, Job>,
}

struct Job {
    woken: Arc<Flag>,
    /// Away while it is polled.
    work: Option<BoxFuture<'static, ()>>,
}

impl Hands {
    /// How many tasks have neither ended nor been stopped.
    pub(crate) fn running(&self) -> usize {
        self.lock().jobs.len()
    }

    /// Polls each task that was woken, once. Whether there was one.
    pub(crate) fn turn(&self) -> bool {
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
            let work = job.work.take().expect("nobody else polls it");
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
        self.0.lock().expect("no test panics in here")
    }
}

impl Spawn for Hands {
    fn spawn(&self, work: BoxFuture<'static, ()>) -> Task {
        let mut jobs = self.lock();
        let id = jobs.next;
        jobs.next += 1;
        let job = Job {
            woken: Flag::raised(),
            work: Some(work),
        };
        jobs.jobs.insert(id, job);
        drop(jobs);
        let hands = self.clone();
        Task::new(move || {
            // What the task holds is dropped without the lock: it may stop other tasks.
            let stopped = hands.lock().jobs.remove(&id);
            drop(stopped);
        })
    }
}

impl fmt::Debug for Hands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hands").finish_non_exhaustive()
    }
}
