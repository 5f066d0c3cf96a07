//! Negative controls of the checks. The checks must find the defect of each faulty limiter, and
//! must accept a correct limiter.

use tinkers_stress::case::{Round, Verdict};
use tinkers_stress::check::{self, Invariant};
use tinkers_stress::fair_semaphore::{
    Correct, DoubleRelease, FairSemaphore, LeakOnDrop, Lifo, LostGrant, SharedQueue, WakeAll,
};
use tinkers_stress::plan::{Plan, Shape, StartWhen};
use tinkers_stress::polling_semaphore::PollingSemaphore;
use tinkers_stress::storm::{self, Storm};
use tinkers_stress::subject::Subject;
use tinkers_stress::tasks::Tasks;
use tinkers_stress::waiters;

const NO_ABORTS: Shape = Shape {
    clients: 3,
    per_client: 20,
    limit: 3,
    aborted: 0,
    forgotten: 0,
    panicking: 0,
    start_when: StartWhen::AllQueued,
};

const WITH_ABORTS: Shape = Shape {
    aborted: 40,
    panicking: 10,
    ..NO_ABORTS
};

/// Runs the limiter `S` twenty times with different seeds. Returns the invariants that at least one
/// run violated, according to the checks.
fn found<S: Subject>(shape: Shape) -> Vec<Invariant> {
    let of = |seed| check::waiters(&waiters::step_by_step::<S>(Plan::new(shape, seed), seed));
    let mut invariants: Vec<Invariant> = (0..20)
        .flat_map(of)
        .map(|violation| violation.invariant)
        .collect();
    invariants.sort();
    invariants.dedup();
    invariants
}

fn finds<S: Subject>(shape: Shape, wanted: &[Invariant]) {
    let invariants = found::<S>(shape);
    for invariant in wanted {
        assert!(
            invariants.contains(invariant),
            "expected {invariant:?}, found {invariants:?}"
        );
    }
}

#[test]
fn correct_semaphore_passes_all_checks_step_by_step() {
    assert_eq!(found::<FairSemaphore<Correct>>(NO_ABORTS), []);
    assert_eq!(found::<FairSemaphore<Correct>>(WITH_ABORTS), []);
}

#[test]
fn correct_semaphore_passes_all_checks_on_threads() {
    for (shape, seed) in [(NO_ABORTS, 1), (WITH_ABORTS, 2)] {
        let observed =
            waiters::on_threads::<FairSemaphore<Correct>>(Plan::new(shape, seed), &Tasks::new());
        assert_eq!(check::waiters(&observed), []);
    }
}

#[test]
fn negative_control_semaphore_without_a_queue_violates_fifo_order() {
    finds::<PollingSemaphore>(NO_ABORTS, &[Invariant::Order, Invariant::WakeUps]);
}

#[test]
fn negative_control_permit_released_twice_exceeds_the_limit() {
    assert_eq!(found::<FairSemaphore<DoubleRelease>>(NO_ABORTS), []);
    finds::<FairSemaphore<DoubleRelease>>(WITH_ABORTS, &[Invariant::Limit]);
}

#[test]
fn negative_control_leak_by_a_drop_after_the_grant_is_detected() {
    assert_eq!(found::<FairSemaphore<LostGrant>>(NO_ABORTS), []);
    let shape = Shape {
        limit: 1,
        ..WITH_ABORTS
    };
    finds::<FairSemaphore<LostGrant>>(shape, &[Invariant::Conservation, Invariant::Progress]);
}

#[test]
fn negative_control_permit_leaked_by_an_abort_is_detected() {
    assert_eq!(found::<FairSemaphore<LeakOnDrop>>(NO_ABORTS), []);
    finds::<FairSemaphore<LeakOnDrop>>(
        WITH_ABORTS,
        &[Invariant::Conservation, Invariant::Progress],
    );
}

#[test]
fn negative_control_queue_shared_by_all_clients_violates_fairness() {
    assert_eq!(
        found::<FairSemaphore<SharedQueue>>(NO_ABORTS),
        [Invariant::Fairness]
    );
}

#[test]
fn negative_control_lifo_queue_violates_fifo_order() {
    assert_eq!(found::<FairSemaphore<Lifo>>(NO_ABORTS), [Invariant::Order]);
}

#[test]
fn negative_control_semaphore_that_wakes_all_waiters_is_detected() {
    assert_eq!(
        found::<FairSemaphore<WakeAll>>(NO_ABORTS),
        [Invariant::WakeUps]
    );
}

#[test]
fn negative_control_limiter_that_ignores_retry_delays_is_detected() {
    let storm = Storm {
        clients: 3,
        tasks: 5,
        requests: 4,
        window: 3,
        seed: 1,
    };
    let observed = storm::step_by_step::<FairSemaphore<Correct>>(storm);
    let invariants: Vec<Invariant> = storm::check(&observed)
        .iter()
        .map(|violation| violation.invariant)
        .collect();
    assert!(invariants.contains(&Invariant::RetryHint), "{invariants:?}");
}

#[test]
fn stress_round_without_contention_is_inconclusive() {
    assert_eq!(Round::default().verdict(), Verdict::Inconclusive);
}
