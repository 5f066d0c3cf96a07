//! Threads that take and give back the same few keys: one live value per key at any time, and nothing left at the end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};

use tinkers_registry::Registry;

const KEYS: usize = 3;
const THREADS: usize = 8;
const ROUNDS: usize = 4_000;

struct Value {
    id: u64,
}

static BUILT: AtomicU64 = AtomicU64::new(0);
static DROPPED: AtomicU64 = AtomicU64::new(0);

impl Drop for Value {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

/// What the holders of a key say they hold: the value's id, and how many they are.
#[derive(Default)]
struct Witness(Mutex<(u64, usize)>);

impl Witness {
    /// To be called after a handle was taken. Whether it is the value that the other holders have.
    fn enter(&self, id: u64) -> bool {
        let mut held = self.0.lock().expect("no panic");
        let agrees = held.1 == 0 || held.0 == id;
        *held = (id, held.1 + 1);
        agrees
    }

    /// To be called before a handle is dropped.
    fn leave(&self) {
        self.0.lock().expect("no panic").1 -= 1;
    }
}

#[test]
fn a_key_has_one_live_value_at_any_time() {
    let registry: Registry<usize, Value> = Registry::new();
    let witnesses: Vec<Witness> = (0..KEYS).map(|_| Witness::default()).collect();
    let start = Barrier::new(THREADS);
    let disagreements: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (registry, witnesses, start) = (&registry, &witnesses, &start);
                scope.spawn(move || {
                    start.wait();
                    let mut disagreements = 0;
                    for round in 0..ROUNDS {
                        let key = (round + thread) % KEYS;
                        let handle = registry.get_or_create(key, || Value {
                            id: BUILT.fetch_add(1, Ordering::Relaxed),
                        });
                        assert_eq!(*handle.key(), key);
                        disagreements += usize::from(!witnesses[key].enter(handle.id));
                        if round % 5 == 0 {
                            let clone = handle.clone();
                            assert_eq!(clone.id, handle.id);
                            drop(clone);
                        }
                        if round % 7 == 0 {
                            let again = registry.get(&key).expect("it is held");
                            assert_eq!(again.id, handle.id);
                        }
                        if round % 3 == 0 {
                            std::thread::yield_now();
                        }
                        witnesses[key].leave();
                    }
                    disagreements
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("no panic"))
            .sum()
    });
    assert_eq!(disagreements, 0);
    assert!(registry.is_empty(), "{registry:?}");
    let built = BUILT.load(Ordering::Relaxed);
    assert_eq!(built, DROPPED.load(Ordering::Relaxed));
    // Entries came and went many times, or nothing was tried.
    assert!(built > KEYS as u64, "{built}");
}

/// The witness must be able to find a fault: two values of one key held at once.
#[test]
fn the_witness_sees_two_values_of_one_key() {
    let witness = Witness::default();
    assert!(witness.enter(1));
    assert!(witness.enter(1));
    assert!(!witness.enter(2));
}
