//! Threads that share limiters by key, take and give back: one limiter of a key at any time, and nothing left at the end.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use tinkers_core::{FixedJitter, Jitter, ManualClock, Settlement, SplitMix};
use tinkers_dispatch::{Limiter, LimiterAdmission};
use tinkers_registry::{Handle, Registry};

use crate::check::{Fault, Kind};
use crate::limited::{ask, held, limiter};
use crate::subject::Held;

/// How much churn.
#[derive(Debug, Clone, Copy)]
pub struct Churn {
    /// Plain threads.
    pub threads: u64,
    /// Keys that they share.
    pub keys: u64,
    /// Steps of each thread.
    pub steps: u64,
    /// What the steps are made from.
    pub seed: u64,
}

/// In flight of each key at once.
const LIMIT: u32 = 3;

/// What was seen of a churn.
#[derive(Debug, Default)]
pub struct Seen {
    /// Every fault.
    pub faults: Vec<Fault>,
    /// Limiters built.
    pub built: u64,
    /// Attempts that were let in, as the threads counted them.
    pub granted: u64,
    /// Attempts that were given up after one look.
    pub given_up: u64,
    /// Attempts that waited, as the limiters counted them.
    pub waits: u64,
    /// Exchanges lost between threads, in the limiters.
    pub lost: u64,
    /// How often threads met in the registry.
    pub collisions: u64,
}

/// What all keys and threads report to.
#[derive(Debug, Default)]
struct Book {
    built: AtomicU64,
    dropped: AtomicU64,
    disagreements: AtomicU64,
    over_limit: AtomicU64,
    leaks: AtomicU64,
    grants: AtomicU64,
    waits: AtomicU64,
    lost: AtomicU64,
    granted: AtomicU64,
    given_up: AtomicU64,
}

/// What is shared by key.
struct Shared {
    id: u64,
    limiter: Arc<Limiter>,
    admission: LimiterAdmission,
    book: Arc<Book>,
}

impl Shared {
    fn new(book: &Arc<Book>) -> Self {
        // Long enough that others come to wait for it.
        std::thread::yield_now();
        let limiter = limiter(LIMIT);
        let clock = Arc::new(ManualClock::new());
        Self {
            id: book.built.fetch_add(1, Ordering::SeqCst),
            admission: limiter.admission(clock, Arc::new(FixedJitter(0.0))),
            limiter,
            book: Arc::clone(book),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let lane = self.limiter.snapshot().sample;
        let add = |count: &AtomicU64, n| count.fetch_add(n, Ordering::SeqCst);
        add(&self.book.dropped, 1);
        add(&self.book.leaks, u64::from(held(&lane) != Held::default()));
        add(&self.book.grants, lane.counts.grants);
        add(&self.book.waits, lane.counts.waits);
        add(&self.book.lost, lane.contention);
    }
}

/// What those who hold a key see of it.
#[derive(Debug, Default)]
struct Key {
    /// Which value, and how many hold it.
    held: Mutex<(u64, u64)>,
    inside: AtomicU64,
}

impl Churn {
    /// Runs it.
    pub fn run(self) -> Seen {
        let (registry, book) = (Registry::new(), Arc::<Book>::default());
        let keys: Vec<Key> = (0..self.keys).map(|_| Key::default()).collect();
        std::thread::scope(|scope| {
            for thread in 0..self.threads {
                let (registry, book, keys) = (&registry, &book, &keys[..]);
                scope.spawn(move || {
                    let chance = SplitMix::new(self.seed ^ (thread + 1) << 32);
                    for _ in 0..self.steps {
                        step(registry, book, keys, &chance);
                    }
                });
            }
        });
        seen(&registry, &book)
    }
}

fn step(registry: &Registry<u64, Shared>, book: &Arc<Book>, keys: &[Key], chance: &SplitMix) {
    let name = chance.bits() % keys.len() as u64;
    let key = &keys[name as usize];
    let shared = registry.get_or_create(name, || Shared::new(book));
    key.enter(shared.id, book);
    for _ in 0..1 + chance.bits() % 4 {
        attempt(&shared, key, chance.bits());
    }
    key.leave();
    // The last user of a key takes its limiter along.
    let clone: Handle<_, _> = shared.clone();
    drop(shared);
    drop(clone);
}

fn attempt(shared: &Shared, key: &Key, choice: u64) {
    let book = &shared.book;
    let mut wait = pin!(
        shared
            .admission
            .wait(ask(choice % 2))
            .expect("samples have a lane")
    );
    if choice.is_multiple_of(10) {
        let looked = wait.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let count = match looked {
            Poll::Ready(_) => &book.granted,
            Poll::Pending => &book.given_up,
        };
        count.fetch_add(1, Ordering::SeqCst);
        return;
    }
    let admitted = block_on(wait).expect("without a deadline nothing fails");
    book.granted.fetch_add(1, Ordering::SeqCst);
    let inside = key.inside.fetch_add(1, Ordering::SeqCst) + 1;
    book.over_limit
        .fetch_add(u64::from(inside > LIMIT.into()), Ordering::SeqCst);
    if choice.is_multiple_of(3) {
        std::thread::yield_now();
    }
    key.inside.fetch_sub(1, Ordering::SeqCst);
    if !choice.is_multiple_of(7) {
        admitted.permit.settle(Settlement::Accepted);
    }
}

impl Key {
    fn enter(&self, id: u64, book: &Book) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let is_other = held.1 > 0 && held.0 != id;
        book.disagreements
            .fetch_add(u64::from(is_other), Ordering::SeqCst);
        *held = (id, held.1 + 1);
    }

    fn leave(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.1 -= 1;
    }
}

fn seen(registry: &Registry<u64, Shared>, book: &Book) -> Seen {
    let read = |count: &AtomicU64| count.load(Ordering::SeqCst);
    let mut faults = Vec::new();
    let mut none = |kind, what: &str, count: u64| {
        if count > 0 {
            faults.push(Fault::new(kind, format!("{what}: {count}")));
        }
    };
    let (built, dropped) = (read(&book.built), read(&book.dropped));
    let (grants, granted, given_up) = (
        read(&book.grants),
        read(&book.granted),
        read(&book.given_up),
    );
    none(Kind::Registry, "entries left", registry.len() as u64);
    none(Kind::Registry, "limiters left", built.abs_diff(dropped));
    none(
        Kind::Registry,
        "two limiters of a key",
        read(&book.disagreements),
    );
    none(Kind::OverLimit, "above the limit", read(&book.over_limit));
    none(
        Kind::Conservation,
        "limiters that held something",
        read(&book.leaks),
    );
    let agrees = (granted..=granted + given_up).contains(&grants);
    none(
        Kind::Counts,
        "grants that nobody saw",
        if agrees { 0 } else { grants },
    );
    Seen {
        faults,
        built,
        granted,
        given_up,
        waits: read(&book.waits),
        lost: read(&book.lost),
        collisions: registry.collisions().total(),
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for `future` on a thread without a runtime.
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
