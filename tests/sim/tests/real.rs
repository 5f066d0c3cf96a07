//! Over the real engine: what faults leave of a model is what its calls make of it.

use std::process::Command;

use tinkers_sim::control::Control;
use tinkers_sim::plan::{Cut, EngineKind, Plan};
use tinkers_sim::seeds;
use tinkers_sim::trace::Keep;
use tinkers_sim::watch::Rule;
use tinkers_sim::world;

fn real() -> Cut {
    Cut {
        engine: EngineKind::Real,
        ..Cut::default()
    }
}

#[test]
fn real_weights_are_those_of_a_run_of_just_the_applied_calls() {
    let results = seeds::run(4, &real(), None);
    let failure = results.failure.as_ref();
    let broken = failure.map(|failure| (failure.seed, &failure.ran.violations));
    assert_eq!(broken, None);
    assert!(results.size.models > 3, "inconclusive: {:?}", results.size);
    assert!(results.cover.total() > 100, "inconclusive");
}

#[test]
fn a_step_and_a_gradient_that_count_twice_show_in_the_weights_alone() {
    for control in [Control::StepTwice, Control::GradientTwice] {
        let results = seeds::run(20, &real(), Some(control));
        let failure = results.failure;
        let failure = failure.unwrap_or_else(|| panic!("{} is not found", control.name()));
        for violation in &failure.ran.violations {
            assert_eq!(violation.rule, Rule::Weights, "{}", violation.what);
        }
    }
}

#[test]
fn the_weights_are_the_same_in_another_process() {
    let seed = 1;
    let here = world::run(&Plan::new(seed, &real()), None, Keep::Last);
    assert!(here.size.models > 0, "inconclusive");
    let output = Command::new(env!("CARGO_BIN_EXE_tinkers-sim"))
        .args(["--engine", "real", "--seed", &seed.to_string()])
        .output()
        .expect("the program starts");
    let there = String::from_utf8_lossy(&output.stdout);
    let expected = format!("trace {:016x}", here.hash);
    assert!(there.contains(&expected), "{expected} is not in {there}");
}
