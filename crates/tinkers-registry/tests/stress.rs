//! A stress test of 64 threads and 8 keys: one live value per key at any time, exact counts, and no entries at the end.

#[path = "support/subject.rs"]
mod subject;
#[path = "support/tracked.rs"]
mod tracked;
#[path = "support/workload.rs"]
mod workload;

use std::hash::{BuildHasher, RandomState};

use subject::{CheckThenInsert, Subject};
use tinkers_registry::Registry;
use tracked::{Tracked, Tracker};
use workload::{Counts, RunError, Workload};

/// Returns the seed of the workload: the number in the environment variable `TINKERS_STRESS_SEED`, or else a random number.
#[expect(
    clippy::disallowed_methods,
    reason = "the environment selects the seed of a failed run"
)]
fn seed() -> u64 {
    match std::env::var("TINKERS_STRESS_SEED") {
        Ok(text) => text.parse().expect("TINKERS_STRESS_SEED is a number"),
        Err(_) => RandomState::new().hash_one("registry"),
    }
}

#[expect(
    clippy::print_stdout,
    reason = "the seed is needed to reproduce the run"
)]
fn run<S: Subject>(operations: u64) -> Result<u64, RunError> {
    let seed = seed();
    println!("TINKERS_STRESS_SEED={seed}");
    let workload = Workload {
        threads: 64,
        keys: 8,
        operations,
        seed,
    };
    let counts = workload.run::<S>()?;
    println!("{counts}");
    Ok(counts.contention)
}

#[test]
fn each_key_has_one_live_value_and_no_registry_entry_is_left() {
    match run::<Registry<usize, Tracked>>(10_000) {
        Ok(contention) => assert!(contention > 0),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn negative_control_lookup_insert_race_fails_the_stress_test() {
    match run::<CheckThenInsert>(10_000) {
        Err(RunError::Faults { faults, .. }) => {
            assert!(
                faults[0].contains("two values of a key"),
                "other faults: {faults:?}"
            );
        }
        other => panic!("the fault was not detected: {other:?}"),
    }
}

/// Runs the workload on one thread, so there is no contention.
fn run_single_thread(seed: u64) -> Counts {
    let workload = Workload {
        threads: 1,
        keys: 3,
        operations: 1_000,
        seed,
    };
    match workload.run::<Registry<usize, Tracked>>() {
        Err(RunError::Inconclusive {
            seed: reported,
            counts,
        }) => {
            assert_eq!(reported, seed);
            counts
        }
        other => panic!("one thread cannot cause contention: {other:?}"),
    }
}

#[test]
fn stress_run_without_contention_is_inconclusive_and_reproducible() {
    assert!(run_single_thread(7).handles > 0);
    assert_eq!(run_single_thread(7), run_single_thread(7));
    assert_ne!(run_single_thread(7), run_single_thread(8));
}

#[test]
fn negative_control_tracker_detects_each_kind_of_registry_fault() {
    let tracker = Tracker::new();
    let (first, second) = (tracker.build(0), tracker.build(0));
    tracker.acquired(&first);
    assert_eq!(tracker.observations().disagreements, 0);
    tracker.acquired(&second);
    assert_eq!(tracker.observations().disagreements, 1);
    drop(second);
    assert_eq!(tracker.observations().dropped_under_holder, 1);
    assert_eq!(
        tracker.observations().faults().len(),
        4,
        "{:?}",
        tracker.observations()
    );
}
