//! Small rounds of each stress case on real threads, and runs of the limiter on the deterministic
//! executor.

use tinkers_stress::case::{CASES, Size, Verdict};
use tinkers_stress::check;
use tinkers_stress::limiter_subject::LimiterSubject;
use tinkers_stress::pauses::{Scenario, SendCheck};
use tinkers_stress::plan::{Plan, Shape, StartWhen};
use tinkers_stress::storm::{self, Storm};
use tinkers_stress::waiters;

fn check_passes(name: &str) {
    let case = CASES.iter().find(|case| case.name == name).expect("a case");
    // On a single core, many small rounds may pass before two tasks contend.
    for seed in 0..100 {
        let round = (case.run)(Size::Small, seed);
        match round.verdict() {
            Verdict::Passed => return,
            Verdict::Inconclusive => {}
            Verdict::Failed => panic!("seed {seed}: {round:?}"),
        }
    }
    panic!("inconclusive: no round had contention");
}

#[test]
fn waiters_of_a_client_are_admitted_in_fifo_order() {
    check_passes("waiters");
}

#[test]
fn registry_keeps_at_most_one_limiter_per_key() {
    check_passes("registry");
}

#[test]
fn all_requests_are_served_although_the_server_sends_429s() {
    check_passes("storm");
}

#[test]
fn aborts_drops_and_panics_release_all_permits() {
    check_passes("aborts");
}

#[test]
fn requests_of_several_clients_are_admitted_in_turn() {
    check_passes("clients");
}

#[test]
fn no_request_is_sent_before_the_retry_delay_has_passed() {
    check_passes("pauses");
}

#[test]
fn negative_control_request_sent_during_a_retry_delay_is_detected() {
    for is_http2 in [false, true] {
        let scenario = Scenario {
            is_http2,
            connections: 4,
            streams: 1,
            is_body_slow: false,
            calls: 50,
            warm_up: 200,
        };
        let observed = scenario.run(SendCheck::Disabled, 1);
        assert!(observed.early > 0, "{observed:?}");
        assert_eq!((observed.held, observed.failed), (0, 0), "{observed:?}");
        assert_eq!(observed.violations(&scenario).len(), 1);
    }
}

#[test]
fn every_stress_case_has_a_test() {
    let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
    assert_eq!(
        names,
        [
            "waiters", "registry", "storm", "aborts", "clients", "pauses"
        ]
    );
}

#[test]
fn limiter_passes_all_checks_on_the_deterministic_executor() {
    for seed in 0..50 {
        let shape = Shape {
            clients: 3,
            per_client: 20,
            limit: 4,
            aborted: 30,
            forgotten: 10,
            panicking: 10,
            start_when: StartWhen::AllQueued,
        };
        let observed = waiters::step_by_step::<LimiterSubject>(Plan::new(shape, seed), seed);
        assert_eq!(check::waiters(&observed), [], "seed {seed}");
        let storm = Storm {
            clients: 3,
            tasks: 5,
            requests: 4,
            window: 4,
            seed,
        };
        let observed = storm::step_by_step::<LimiterSubject>(storm);
        assert_eq!(storm::check(&observed), [], "seed {seed}");
    }
}

#[test]
fn stress_seed_determines_the_plan_and_the_admission_order() {
    let shape = Shape {
        clients: 3,
        per_client: 50,
        limit: 4,
        aborted: 30,
        forgotten: 10,
        panicking: 10,
        start_when: StartWhen::HalfQueued,
    };
    assert_eq!(Plan::new(shape, 7), Plan::new(shape, 7));
    assert_ne!(Plan::new(shape, 7), Plan::new(shape, 8));
    let started = |seed| {
        let observed = waiters::step_by_step::<LimiterSubject>(Plan::new(shape, seed), seed);
        observed.log.started()
    };
    assert_eq!(started(7), started(7));
}
