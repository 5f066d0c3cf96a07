//! A semaphore without a queue. Waiters try again every 2 to 50 ms, so the order is random. The
//! checks must detect this defect.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tinkers_core::{BoxFuture, Clock, Jitter, ManualClock, SplitMix};

use crate::subject::{Counts, HeldResources, Permit, PermitOutcome, Subject};

/// A semaphore without a queue, as a faulty limiter under test (negative control): it does not
/// admit waiters in FIFO order. Waiters sleep for a random time between two attempts to take a
/// permit.
#[derive(Debug)]
pub struct PollingSemaphore {
    limit: u64,
    taken: AtomicU64,
    waiting: AtomicU64,
    clock: ManualClock,
    chance: SplitMix,
}

impl PollingSemaphore {
    fn try_take(&self) -> bool {
        let more = |taken| (taken < self.limit).then_some(taken + 1);
        self.taken
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
            .is_ok()
    }
}

impl Subject for PollingSemaphore {
    type Permit = SemaphorePermit;

    fn new(limit: u32, clock: ManualClock) -> Arc<Self> {
        Arc::new(Self {
            limit: limit.into(),
            taken: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            clock,
            chance: SplitMix::new(1),
        })
    }

    fn acquire(self: &Arc<Self>, _: u64, (): ()) -> BoxFuture<'static, SemaphorePermit> {
        let of = Arc::clone(self);
        Box::pin(async move {
            let waits = Waits(&of.waiting);
            waits.0.fetch_add(1, Ordering::Relaxed);
            while !of.try_take() {
                let pause = Duration::from_micros(2_000 + of.chance.bits() % 48_000);
                let time: &dyn Clock = &of.clock;
                time.sleep(pause).await;
            }
            drop(waits);
            SemaphorePermit(of)
        })
    }

    fn held(&self) -> HeldResources {
        HeldResources {
            slots: self.taken.load(Ordering::Acquire),
            waiting: self.waiting.load(Ordering::Acquire),
            ..HeldResources::default()
        }
    }

    fn limit(&self) -> u64 {
        self.limit
    }

    fn counts(&self) -> Option<Counts> {
        None
    }
}

struct Waits<'a>(&'a AtomicU64);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A permit of a [`PollingSemaphore`].
#[derive(Debug)]
pub struct SemaphorePermit(Arc<PollingSemaphore>);

impl Permit for SemaphorePermit {
    type RetryState = ();

    fn end(self, _: PermitOutcome) {}
}

impl Drop for SemaphorePermit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}
