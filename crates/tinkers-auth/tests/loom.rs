//! Loom models of the shared token: one fetch at a time, no older token after a newer one, and no lost waiter.
//!
//! Run with `cargo xtask loom tinkers-auth`.
#![cfg(tinkers_loom)]

#[path = "../../tinkers-registry/tests/support/explore.rs"]
mod explore;
#[expect(dead_code, reason = "the background refresh uses the rest")]
#[path = "../src/single_flight.rs"]
mod single_flight;
#[path = "../src/sync.rs"]
mod sync;

use std::pin::pin;
use std::sync::Mutex as Unseen;
use std::task::{Context, Poll, Wake, Waker};

use explore::explore;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::{Arc, Mutex, Notify};
use loom::thread::{self, JoinHandle};
use single_flight::{SingleFlight, Turn};

const BOUND: usize = 3;

/// The outcome of a request for a token: the number of the token, or the number of the failed fetch.
type Outcome = Result<u64, u64>;

/// The shared token, and its source. The number of a token is that of its fetch.
struct Cache {
    flight: SingleFlight<u64, u64>,
    fetches: AtomicU64,
    /// The number of fetches that run now. It may be 0 or 1.
    running: AtomicU64,
    /// Whether the first fetch fails.
    is_first_failing: bool,
    faults: Unseen<Vec<String>>,
}

/// Wakes the thread that waits for a future.
struct Signal(Notify);

impl Wake for Signal {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.notify();
    }
}

/// Runs a future on the current thread of the model. Returns its output, and whether it was pending. Loom reports a deadlock if it is never
/// woken.
fn wait<F: Future>(future: F) -> (F::Output, bool) {
    let signal = std::sync::Arc::new(Signal(Notify::new()));
    let waker = Waker::from(std::sync::Arc::clone(&signal));
    let mut future = pin!(future);
    let mut was_pending = false;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return (output, was_pending);
        }
        was_pending = true;
        signal.0.wait();
    }
}

impl Cache {
    fn new(is_first_failing: bool) -> Arc<Self> {
        Arc::new(Self {
            flight: SingleFlight::new(),
            fetches: AtomicU64::new(0),
            running: AtomicU64::new(0),
            is_first_failing,
            faults: Unseen::default(),
        })
    }

    /// Makes a fetch. Loom can switch threads in the middle of it.
    fn fetch(&self) -> Outcome {
        if self.running.fetch_add(1, Ordering::SeqCst) != 0 {
            self.fault("two fetches at the same time");
        }
        let number = self.fetches.fetch_add(1, Ordering::SeqCst) + 1;
        self.running.fetch_sub(1, Ordering::SeqCst);
        match number == 1 && self.is_first_failing {
            true => Err(number),
            false => Ok(number),
        }
    }

    /// Returns a token with a number above `rejected`, as a request does whose token `rejected` was refused. A request that has waited for
    /// the fetch of another request must not fetch.
    fn token(&self, rejected: u64) -> Outcome {
        let (outcome, has_waited_and_fetched) = self.request(rejected);
        if has_waited_and_fetched {
            self.fault("a request has waited for a fetch and fetches again");
        }
        outcome
    }

    /// Returns a token with a number above `rejected`, and whether the request has waited for a fetch before its own fetch.
    fn request(&self, rejected: u64) -> (Outcome, bool) {
        let (turn, has_waited) = wait(self.flight.turn(|token| *token > rejected));
        match turn {
            Turn::Value(token) => (Ok(token), false),
            Turn::Failed(error) => (Err(error), false),
            Turn::Fetch(fetch) => {
                let outcome = self.fetch();
                fetch.end(outcome);
                (outcome, has_waited)
            }
        }
    }

    fn fault(&self, text: impl Into<String>) {
        self.faults.lock().unwrap().push(text.into());
    }

    fn faults(&self) -> Vec<String> {
        std::mem::take(&mut *self.faults.lock().unwrap())
    }
}

fn spawn<T: 'static>(
    cache: &Arc<Cache>,
    work: impl FnOnce(&Cache) -> T + 'static,
) -> JoinHandle<T> {
    let cache = Arc::clone(cache);
    thread::spawn(move || work(&cache))
}

#[test]
fn requests_without_a_token_share_one_fetch() {
    explore("first token", BOUND, || {
        let cache = Cache::new(false);
        let others = [(); 2].map(|()| spawn(&cache, |cache| cache.token(0)));
        let mine = cache.token(0);
        let outcomes = others.map(|other| other.join().unwrap());
        if mine != Ok(1) || outcomes != [Ok(1), Ok(1)] {
            cache.fault(format!("{mine:?} {outcomes:?}"));
        }
        cache.faults()
    })
    .assert_none();
}

#[test]
fn rejected_token_is_replaced_once_for_all_its_requests() {
    explore("rejected token", BOUND, || {
        let cache = Cache::new(false);
        assert_eq!(cache.token(0), Ok(1));
        let other = spawn(&cache, |cache| cache.token(1));
        // This request was sent with the rejected token, too.
        let mine = cache.token(1);
        let other = other.join().unwrap();
        // A late rejection of the old token causes no further fetch.
        let late = cache.token(1);
        if [mine, other, late] != [Ok(2); 3] {
            cache.fault(format!("{mine:?} {other:?} {late:?}"));
        }
        cache.faults()
    })
    .assert_none();
}

#[test]
fn reader_never_sees_an_older_token_after_a_newer_one() {
    explore("order of tokens", BOUND, || {
        let cache = Cache::new(false);
        let writer = spawn(&cache, |cache| {
            let first = cache.token(0).unwrap();
            cache.token(first).unwrap();
        });
        let seen = [(); 3].map(|()| cache.token(0).unwrap());
        if !seen.is_sorted() {
            cache.fault(format!("{seen:?}"));
        }
        writer.join().unwrap();
        cache.faults()
    })
    .assert_none();
}

/// A request that begins after the failed fetch makes a fetch of its own, so the outcomes depend on the interleaving.
#[test]
fn failed_fetch_wakes_all_waiters() {
    explore("failed fetch", BOUND, || {
        let cache = Cache::new(true);
        let others = [(); 2].map(|()| spawn(&cache, |cache| cache.token(0)));
        let mine = cache.token(0);
        let outcomes = others.map(|other| other.join().unwrap());
        let all = [mine, outcomes[0], outcomes[1]];
        if !all.contains(&Err(1)) || all.iter().any(|one| !matches!(one, Err(1) | Ok(2))) {
            cache.fault(format!("{all:?}"));
        }
        cache.faults()
    })
    .assert_none();
}

#[test]
fn dropped_fetch_is_made_by_a_waiting_request() {
    explore("dropped fetch", BOUND, || {
        let cache = Cache::new(false);
        let other = spawn(&cache, |cache| cache.request(0).0);
        // This request is dropped while it fetches.
        drop(wait(cache.flight.turn(|_| false)));
        let other = other.join().unwrap();
        if other != Ok(1) {
            cache.fault(format!("{other:?}"));
        }
        cache.faults()
    })
    .assert_none();
}

/// Checks that loom detects a planted fault: a cache that looks whether a token is there, and whether it is being fetched, under two locks.
#[test]
fn negative_control_two_fetches_of_a_faulty_cache_are_detected() {
    let findings = explore("negative control: two locks", BOUND, || {
        let cache = Cache::new(false);
        let token = Arc::new(Mutex::new(None));
        let work = |cache: &Cache, token: &Mutex<Option<u64>>| {
            let known = *token.lock().unwrap();
            let token = known.unwrap_or_else(|| {
                let fetched = cache.fetch().unwrap();
                *token.lock().unwrap().insert(fetched)
            });
            if token != 1 {
                cache.fault("a second fetch");
            }
        };
        let shared = Arc::clone(&token);
        let other = spawn(&cache, move |cache| work(cache, &shared));
        work(&cache, &token);
        other.join().unwrap();
        cache.faults()
    });
    assert!(!findings.faults.is_empty());
}
