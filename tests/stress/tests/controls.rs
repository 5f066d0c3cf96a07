//! Each check finds the fault that it is for: limiters that are made wrong on purpose, and one that is not.

use tinkers_stress::case::{Round, Verdict};
use tinkers_stress::check::{self, Kind};
use tinkers_stress::crowd;
use tinkers_stress::fair::{
    Fair, HandOverForgotten, LastFirst, LeakOnAbort, NoTurns, ReleaseByCount, Sound, WakesAll,
};
use tinkers_stress::plan::{Begins, Plan, Shape};
use tinkers_stress::polling::Polling;
use tinkers_stress::storm::{self, Storm};
use tinkers_stress::subject::Subject;
use tinkers_stress::threads::Tasks;

const CALM: Shape = Shape {
    clients: 3,
    each: 20,
    limit: 3,
    aborted: 0,
    forgotten: 0,
    panicking: 0,
    begins: Begins::Complete,
};

const ROUGH: Shape = Shape {
    aborted: 40,
    panicking: 10,
    ..CALM
};

/// The kinds of faults that the checks find in some run of twenty.
fn found<S: Subject>(shape: Shape) -> Vec<Kind> {
    let of = |seed| check::crowd(&crowd::step_by_step::<S>(Plan::new(shape, seed), seed));
    let mut kinds: Vec<Kind> = (0..20).flat_map(of).map(|fault| fault.kind).collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

fn finds<S: Subject>(shape: Shape, wanted: &[Kind]) {
    let kinds = found::<S>(shape);
    for kind in wanted {
        assert!(kinds.contains(kind), "{kind:?} is not among {kinds:?}");
    }
}

#[test]
fn a_sound_semaphore_has_none_of_the_faults() {
    assert_eq!(found::<Fair<Sound>>(CALM), []);
    assert_eq!(found::<Fair<Sound>>(ROUGH), []);
}

#[test]
fn a_sound_semaphore_passes_on_threads_too() {
    for (shape, seed) in [(CALM, 1), (ROUGH, 2)] {
        let seen = crowd::on_threads::<Fair<Sound>>(Plan::new(shape, seed), &Tasks::new());
        assert_eq!(check::crowd(&seen), []);
    }
}

#[test]
fn sleeping_and_looking_again_forgets_the_order_and_wakes_too_often() {
    finds::<Polling>(CALM, &[Kind::Order, Kind::WakeUps]);
}

#[test]
fn giving_back_twice_lets_more_in_than_the_limit() {
    assert_eq!(found::<Fair<ReleaseByCount>>(CALM), []);
    finds::<Fair<ReleaseByCount>>(ROUGH, &[Kind::OverLimit]);
}

#[test]
fn a_hand_over_that_is_forgotten_leaves_the_queue_stuck() {
    assert_eq!(found::<Fair<HandOverForgotten>>(CALM), []);
    let shape = Shape { limit: 1, ..ROUGH };
    finds::<Fair<HandOverForgotten>>(shape, &[Kind::Conservation, Kind::Stuck]);
}

#[test]
fn a_unit_that_goes_with_an_abort_is_missed() {
    assert_eq!(found::<Fair<LeakOnAbort>>(CALM), []);
    finds::<Fair<LeakOnAbort>>(ROUGH, &[Kind::Conservation, Kind::Stuck]);
}

#[test]
fn one_line_for_all_clients_starves_some() {
    assert_eq!(found::<Fair<NoTurns>>(CALM), [Kind::Turns]);
}

#[test]
fn the_last_to_come_is_not_the_first_to_go() {
    assert_eq!(found::<Fair<LastFirst>>(CALM), [Kind::Order]);
}

#[test]
fn waking_everybody_is_counted() {
    assert_eq!(found::<Fair<WakesAll>>(CALM), [Kind::WakeUps]);
}

#[test]
fn a_semaphore_that_hears_no_hint_goes_before_it() {
    let storm = Storm {
        clients: 3,
        tasks: 5,
        requests: 4,
        window: 3,
        seed: 1,
    };
    let seen = storm::step_by_step::<Fair<Sound>>(storm);
    let kinds: Vec<Kind> = storm::check(&seen).iter().map(|fault| fault.kind).collect();
    assert!(kinds.contains(&Kind::Undercut), "{kinds:?}");
}

#[test]
fn a_round_in_which_nobody_met_shows_nothing() {
    assert_eq!(Round::default().verdict(), Verdict::Inconclusive);
}
