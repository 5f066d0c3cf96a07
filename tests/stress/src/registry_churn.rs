//! A stress case for the registry. Threads look up, use and drop limiters by key. Each key must
//! have at most one limiter at a time, and no limiter may be left at the end.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use tinkers_core::{AttemptOutcome, FixedJitter, Jitter, ManualClock, SplitMix};
use tinkers_dispatch::{Limiter, LimiterAdmission};
use tinkers_registry::{Handle, Registry};

use crate::check::{Invariant, Violation};
use crate::limiter_subject::{held, limiter, sample_request};
use crate::subject::HeldResources;

/// The size and the seed of a run in which threads look up, use and release limiters of a registry.
/// The registry shares limiters between threads by key.
#[derive(Debug, Clone, Copy)]
pub struct Churn {
    /// The number of threads.
    pub threads: u64,
    /// The number of keys of the registry. There is one limiter for each key.
    pub keys: u64,
    /// The number of steps of each thread. In each step, the thread looks up a limiter in the
    /// registry, acquires permits from it, and releases the limiter.
    pub steps: u64,
    /// The seed of the random choices.
    pub seed: u64,
}

/// The maximum number of requests in flight that each limiter in the registry admits.
const LIMIT: u32 = 3;

/// What was observed in a run of [`Churn`], in which threads look up, use and release limiters.
#[derive(Debug, Default)]
pub struct Observations {
    /// The violations that were found.
    pub violations: Vec<Violation>,
    /// The number of limiters that the registry built.
    pub built: u64,
    /// The number of admissions, as counted by the threads that asked the limiters for admission.
    pub granted: u64,
    /// The number of times that a thread asked a limiter for admission and dropped the future after
    /// one poll, before it was admitted.
    pub cancelled: u64,
    /// The number of times that a thread had to wait for admission, as counted by the limiters.
    pub waits: u64,
    /// The number of failed compare-exchanges in the limiters, which show that threads contended.
    pub lost: u64,
    /// The number of look-ups in the registry that collided with another thread's look-up.
    pub collisions: u64,
}

/// The sums of the counted events over all keys of the registry and all threads.
#[derive(Debug, Default)]
struct Totals {
    built: AtomicU64,
    dropped: AtomicU64,
    disagreements: AtomicU64,
    over_limit: AtomicU64,
    leaks: AtomicU64,
    grants: AtomicU64,
    waits: AtomicU64,
    lost: AtomicU64,
    granted: AtomicU64,
    cancelled: AtomicU64,
}

/// The value that the registry stores for a key: a limiter with a unique id, which shows whether
/// threads share it.
struct Shared {
    id: u64,
    limiter: Arc<Limiter>,
    admission: LimiterAdmission,
    totals: Arc<Totals>,
}

impl Shared {
    fn new(totals: &Arc<Totals>) -> Self {
        // Makes the construction take longer, so that other threads wait for it.
        std::thread::yield_now();
        let limiter = limiter(LIMIT);
        let clock = Arc::new(ManualClock::new());
        Self {
            id: totals.built.fetch_add(1, Ordering::SeqCst),
            admission: limiter.admission(clock, Arc::new(FixedJitter(0.0))),
            limiter,
            totals: Arc::clone(totals),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let class = self.limiter.snapshot().sample;
        let add = |count: &AtomicU64, n| count.fetch_add(n, Ordering::SeqCst);
        add(&self.totals.dropped, 1);
        add(
            &self.totals.leaks,
            u64::from(held(&class) != HeldResources::default()),
        );
        add(&self.totals.grants, class.counts.grants);
        add(&self.totals.waits, class.counts.waits);
        add(&self.totals.lost, class.contention);
    }
}

/// What the threads themselves count for a key of the registry: the threads that hold the limiter
/// of the key, and the requests that the limiter has admitted and that have not ended.
#[derive(Debug, Default)]
struct Key {
    /// The id of the limiter that the registry returned for this key, and the number of threads
    /// that hold the limiter.
    held: Mutex<(u64, u64)>,
    inside: AtomicU64,
}

impl Churn {
    /// Runs all threads to their end. Then checks that the counted admissions agree with the
    /// limiters, and that all permits were released.
    pub fn run(self) -> Observations {
        let (registry, totals) = (Registry::new(), Arc::<Totals>::default());
        let keys: Vec<Key> = (0..self.keys).map(|_| Key::default()).collect();
        std::thread::scope(|scope| {
            for thread in 0..self.threads {
                let (registry, totals, keys) = (&registry, &totals, &keys[..]);
                scope.spawn(move || {
                    let chance = SplitMix::new(self.seed ^ (thread + 1) << 32);
                    for _ in 0..self.steps {
                        step(registry, totals, keys, &chance);
                    }
                });
            }
        });
        observations(&registry, &totals)
    }
}

fn step(registry: &Registry<u64, Shared>, totals: &Arc<Totals>, keys: &[Key], chance: &SplitMix) {
    let name = chance.bits() % keys.len() as u64;
    let key = &keys[name as usize];
    let shared = registry.get_or_create(name, || Shared::new(totals));
    key.enter(shared.id, totals);
    for _ in 0..1 + chance.bits() % 4 {
        attempt(&shared, key, chance.bits());
    }
    key.leave();
    // When the last handle of a key is dropped, its limiter is dropped.
    let clone: Handle<_, _> = shared.clone();
    drop(shared);
    drop(clone);
}

fn attempt(shared: &Shared, key: &Key, choice: u64) {
    let totals = &shared.totals;
    let mut wait = pin!(
        shared
            .admission
            .wait(sample_request(choice % 2))
            .expect("samples are limited")
    );
    if choice.is_multiple_of(10) {
        let polled = wait.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let count = match polled {
            Poll::Ready(_) => &totals.granted,
            Poll::Pending => &totals.cancelled,
        };
        count.fetch_add(1, Ordering::SeqCst);
        return;
    }
    let admitted = block_on(wait).expect("admission without a deadline does not fail");
    totals.granted.fetch_add(1, Ordering::SeqCst);
    let inside = key.inside.fetch_add(1, Ordering::SeqCst) + 1;
    totals
        .over_limit
        .fetch_add(u64::from(inside > LIMIT.into()), Ordering::SeqCst);
    if choice.is_multiple_of(3) {
        std::thread::yield_now();
    }
    key.inside.fetch_sub(1, Ordering::SeqCst);
    if !choice.is_multiple_of(7) {
        admitted.permit.settle(AttemptOutcome::Accepted);
    }
}

impl Key {
    fn enter(&self, id: u64, totals: &Totals) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let is_other = held.1 > 0 && held.0 != id;
        totals
            .disagreements
            .fetch_add(u64::from(is_other), Ordering::SeqCst);
        *held = (id, held.1 + 1);
    }

    fn leave(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.1 -= 1;
    }
}

fn observations(registry: &Registry<u64, Shared>, totals: &Totals) -> Observations {
    let read = |count: &AtomicU64| count.load(Ordering::SeqCst);
    let mut violations = Vec::new();
    let mut none = |invariant, what: &str, count: u64| {
        if count > 0 {
            violations.push(Violation::new(invariant, format!("{what}: {count}")));
        }
    };
    let (built, dropped) = (read(&totals.built), read(&totals.dropped));
    let (grants, granted, cancelled) = (
        read(&totals.grants),
        read(&totals.granted),
        read(&totals.cancelled),
    );
    none(Invariant::Registry, "leaked entries", registry.len() as u64);
    none(
        Invariant::Registry,
        "leaked limiters",
        built.abs_diff(dropped),
    );
    none(
        Invariant::Registry,
        "concurrent limiters of one key",
        read(&totals.disagreements),
    );
    none(
        Invariant::Limit,
        "admissions above the limit",
        read(&totals.over_limit),
    );
    none(
        Invariant::Conservation,
        "limiters dropped with permits held",
        read(&totals.leaks),
    );
    let agrees = (granted..=granted + cancelled).contains(&grants);
    none(
        Invariant::Counts,
        "grants that no thread counted",
        if agrees { 0 } else { grants },
    );
    Observations {
        violations,
        built,
        granted,
        cancelled,
        waits: read(&totals.waits),
        lost: read(&totals.lost),
        collisions: registry.contention().total(),
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Blocks the thread until `future` is ready, and returns its output. Needs no async runtime.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park();
    }
}
