//! What was seen of a run, written down by those who were let in.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::plan::Waiter;
use crate::subject::{End, Permit};

/// The counts of a run. They decide nothing in what is tested.
#[derive(Debug, Default)]
pub struct Log {
    started: Mutex<Vec<(u64, usize)>>,
    inside: AtomicU64,
    peak: AtomicU64,
    /// Attempts that were let in and forgotten, before they worked.
    pub given_up: AtomicU64,
    /// Attempts that were let in at the first look.
    pub at_once: AtomicU64,
    /// Attempts that were let in after a wait.
    pub after_wait: AtomicU64,
    /// Looks after the first one.
    pub woken: AtomicU64,
    /// Attempts that were ended.
    pub settled: AtomicU64,
    /// Attempts that were given up at work.
    pub dropped: AtomicU64,
}

impl Log {
    /// Whoever `waiter` is works now.
    pub fn enter<P: Permit>(self: &Arc<Self>, waiter: Waiter, permit: P) -> Job<P> {
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.peak.fetch_max(inside, Ordering::SeqCst);
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        started.push((waiter.client, waiter.index));
        Job {
            permit: Some(permit),
            log: Arc::clone(self),
        }
    }

    /// Clients and indexes in the order in which they started to work.
    pub fn started(&self) -> Vec<(u64, usize)> {
        let started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        started.clone()
    }

    /// How many started to work.
    pub fn progress(&self) -> usize {
        let started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        started.len()
    }

    /// The most that worked at once.
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::SeqCst)
    }

    /// One more of `count`.
    pub fn note(count: &AtomicU64) {
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// What `count` is.
    pub fn read(count: &AtomicU64) -> u64 {
        count.load(Ordering::Relaxed)
    }
}

/// Somebody at work. Dropped, it was given up.
#[derive(Debug)]
pub struct Job<P: Permit> {
    permit: Option<P>,
    log: Arc<Log>,
}

impl<P: Permit> Job<P> {
    /// The work is done.
    pub fn finish(mut self) {
        if let Some(permit) = self.permit.take() {
            Log::note(&self.log.settled);
            self.log.inside.fetch_sub(1, Ordering::SeqCst);
            drop(permit.end(End::Accepted));
        }
    }
}

impl<P: Permit> Drop for Job<P> {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            Log::note(&self.log.dropped);
            // Before the permit goes: whoever comes in its place is counted afterwards.
            self.log.inside.fetch_sub(1, Ordering::SeqCst);
            drop(permit);
        }
    }
}
