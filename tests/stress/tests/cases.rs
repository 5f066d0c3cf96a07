//! Each case once, small, on real threads; and the limiter step by step.

use tinkers_stress::case::{CASES, Size, Verdict};
use tinkers_stress::check;
use tinkers_stress::crowd;
use tinkers_stress::limited::Limited;
use tinkers_stress::pauses::{Asks, Scene};
use tinkers_stress::plan::{Begins, Plan, Shape};
use tinkers_stress::storm::{self, Storm};

fn holds(name: &str) {
    let case = CASES.iter().find(|case| case.name == name).expect("a case");
    // On a machine that does one thing at a time small rounds may have to be many until somebody meets somebody.
    for seed in 0..100 {
        let round = (case.run)(Size::Small, seed);
        match round.verdict() {
            Verdict::Holds => return,
            Verdict::Inconclusive => {}
            Verdict::Fails => panic!("seed {seed}: {round:?}"),
        }
    }
    panic!("nobody ever met anybody: inconclusive");
}

#[test]
fn a_crowd_before_a_window_is_served_in_order() {
    holds("waiters");
}

#[test]
fn a_key_has_one_limiter_and_nothing_is_left() {
    holds("registry");
}

#[test]
fn a_storm_of_refusals_ends_with_everybody_served() {
    holds("storm");
}

#[test]
fn aborts_drops_and_panics_give_everything_back() {
    holds("aborts");
}

#[test]
fn clients_are_let_in_in_turn() {
    holds("clients");
}

#[test]
fn no_request_leaves_inside_a_pause() {
    holds("pauses");
}

#[test]
fn requests_that_leave_inside_a_pause_are_counted() {
    for is_http2 in [false, true] {
        let scene = Scene {
            is_http2,
            connections: 4,
            streams: 1,
            is_body_slow: false,
            calls: 50,
            warm_up: 200,
        };
        let seen = scene.run(Asks::No, 1);
        assert!(seen.early > 0, "{seen:?}");
        assert_eq!((seen.held, seen.failed), (0, 0), "{seen:?}");
        assert_eq!(seen.faults(&scene).len(), 1);
    }
}

#[test]
fn every_case_is_run_here() {
    let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
    assert_eq!(
        names,
        [
            "waiters", "registry", "storm", "aborts", "clients", "pauses"
        ]
    );
}

#[test]
fn the_limiter_passes_step_by_step_whatever_the_order() {
    for seed in 0..50 {
        let shape = Shape {
            clients: 3,
            each: 20,
            limit: 4,
            aborted: 30,
            forgotten: 10,
            panicking: 10,
            begins: Begins::Complete,
        };
        let seen = crowd::step_by_step::<Limited>(Plan::new(shape, seed), seed);
        assert_eq!(check::crowd(&seen), [], "seed {seed}");
        let storm = Storm {
            clients: 3,
            tasks: 5,
            requests: 4,
            window: 4,
            seed,
        };
        let seen = storm::step_by_step::<Limited>(storm);
        assert_eq!(storm::check(&seen), [], "seed {seed}");
    }
}

#[test]
fn a_seed_replays_the_same_choices() {
    let shape = Shape {
        clients: 3,
        each: 50,
        limit: 4,
        aborted: 30,
        forgotten: 10,
        panicking: 10,
        begins: Begins::HalfWay,
    };
    assert_eq!(Plan::new(shape, 7), Plan::new(shape, 7));
    assert_ne!(Plan::new(shape, 7), Plan::new(shape, 8));
    let started = |seed| {
        let seen = crowd::step_by_step::<Limited>(Plan::new(shape, seed), seed);
        seen.log.started()
    };
    assert_eq!(started(7), started(7));
}
