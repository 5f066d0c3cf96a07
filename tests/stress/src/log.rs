//! A log of the events of a run, which the waiters record.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::plan::Waiter;
use crate::subject::{Permit, PermitOutcome};

/// The log of a run in which many tasks (the waiters) acquire permits: counters of what they do.
/// Counting does not influence the limiter under test.
#[derive(Debug, Default)]
pub struct Log {
    started: Mutex<Vec<(u64, usize)>>,
    inside: AtomicU64,
    peak: AtomicU64,
    /// The number of waiters that received a permit at their first poll and were then dropped
    /// without using it, as planned.
    pub cancelled: AtomicU64,
    /// The number of waiters that received a permit at their first poll.
    pub at_once: AtomicU64,
    /// The number of waiters that received a permit after they had waited in the queue.
    pub after_wait: AtomicU64,
    /// The number of times that a queued waiter was polled again after a wake-up, with or without
    /// receiving a permit.
    pub woken: AtomicU64,
    /// The number of permits that waiters released normally, after the end of their work.
    pub settled: AtomicU64,
    /// The number of permits that were dropped before the end of their waiter's work, because the
    /// waiter was aborted or panicked.
    pub dropped: AtomicU64,
}

impl Log {
    /// Records that `waiter` has been admitted with `permit` and starts to work. Returns the
    /// running work.
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

    /// Returns the waiters in the order in which they started to work. Each waiter is a pair of its
    /// client and its index in the queue of the client.
    pub fn started(&self) -> Vec<(u64, usize)> {
        let started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        started.clone()
    }

    /// Returns the number of waiters that have received a permit and started to work so far. This
    /// number is the progress of the run.
    pub fn progress(&self) -> usize {
        let started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        started.len()
    }

    /// Returns the maximum number of waiters that worked, and thus held a permit, at the same time.
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::SeqCst)
    }

    /// Increments the counter `count`.
    pub fn increment(count: &AtomicU64) {
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the value of the counter `count`.
    pub fn read(count: &AtomicU64) -> u64 {
        count.load(Ordering::Relaxed)
    }
}

/// The work of an admitted waiter, during which it holds its permit. If this value is dropped
/// before [`Self::finish`], the work counts as aborted.
#[derive(Debug)]
pub struct Job<P: Permit> {
    permit: Option<P>,
    log: Arc<Log>,
}

impl<P: Permit> Job<P> {
    /// Ends the work and releases the permit.
    pub fn finish(mut self) {
        if let Some(permit) = self.permit.take() {
            Log::increment(&self.log.settled);
            self.log.inside.fetch_sub(1, Ordering::SeqCst);
            drop(permit.end(PermitOutcome::Accepted));
        }
    }
}

impl<P: Permit> Drop for Job<P> {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            Log::increment(&self.log.dropped);
            // The count is decremented before the release, because the release may admit the next
            // waiter.
            self.log.inside.fetch_sub(1, Ordering::SeqCst);
            drop(permit);
        }
    }
}
