//! 64 threads over 8 keys: one live value per key at any time, exact counts, and nothing left at the end.

#[path = "support/churn.rs"]
mod churn;
#[path = "support/probe.rs"]
mod probe;
#[path = "support/subject.rs"]
mod subject;

use std::hash::{BuildHasher, RandomState};

use churn::{Churn, Counts, Verdict};
use probe::{Ledger, Probe};
use subject::{CheckThenInsert, Subject};
use tinkers_registry::Registry;

/// A seed of its own for each run, or the one to repeat.
#[expect(
    clippy::disallowed_methods,
    reason = "a seed that failed is given back through the environment"
)]
fn seed() -> u64 {
    match std::env::var("TINKERS_STRESS_SEED") {
        Ok(text) => text.parse().expect("TINKERS_STRESS_SEED is a number"),
        Err(_) => RandomState::new().hash_one("registry"),
    }
}

#[expect(clippy::print_stdout, reason = "a seed is no use unless it is shown")]
fn run<S: Subject>(steps: u64) -> Result<u64, Verdict> {
    let seed = seed();
    println!("TINKERS_STRESS_SEED={seed}");
    let churn = Churn {
        threads: 64,
        keys: 8,
        steps,
        seed,
    };
    let counts = churn.run::<S>()?;
    println!("{counts}");
    Ok(counts.collisions)
}

#[test]
fn a_key_has_one_live_value_under_churn_and_nothing_is_left() {
    match run::<Registry<usize, Probe>>(10_000) {
        Ok(collisions) => assert!(collisions > 0),
        Err(verdict) => panic!("{verdict}"),
    }
}

#[test]
fn the_same_churn_finds_the_fault_of_check_then_insert() {
    match run::<CheckThenInsert>(10_000) {
        Err(Verdict::Faults { faults, .. }) => {
            assert!(
                faults[0].contains("two values of a key"),
                "other faults: {faults:?}"
            );
        }
        other => panic!("the fault was not found: {other:?}"),
    }
}

/// One thread, which meets nobody.
fn alone(seed: u64) -> Counts {
    let churn = Churn {
        threads: 1,
        keys: 3,
        steps: 1_000,
        seed,
    };
    match churn.run::<Registry<usize, Probe>>() {
        Err(Verdict::Inconclusive {
            seed: shown,
            counts,
        }) => {
            assert_eq!(shown, seed);
            counts
        }
        other => panic!("nobody was there to meet: {other:?}"),
    }
}

#[test]
fn threads_that_never_meet_prove_nothing_and_a_seed_replays_their_steps() {
    assert!(alone(7).given > 0);
    assert_eq!(alone(7), alone(7));
    assert_ne!(alone(7), alone(8));
}

/// The ledger must be able to find each fault.
#[test]
fn the_ledger_sees_each_fault() {
    let ledger = Ledger::new();
    let (one, other) = (ledger.build(0), ledger.build(0));
    ledger.enter(&one);
    assert_eq!(ledger.seen().disagreements, 0);
    ledger.enter(&other);
    assert_eq!(ledger.seen().disagreements, 1);
    drop(other);
    assert_eq!(ledger.seen().dropped_under_holder, 1);
    assert_eq!(ledger.seen().faults().len(), 4, "{:?}", ledger.seen());
}
