//! Runs with the real engine: the tensors of each model must result from its applied calls alone.

use tinkers_sim::control::Control;
use tinkers_sim::invariant::Invariant;
use tinkers_sim::plan::{EngineKind, PlanOptions};
use tinkers_sim::seed_runner::{self, SeedResults};

fn run(seeds: u64, control: Option<Control>) -> SeedResults {
    let options = PlanOptions {
        engine: EngineKind::Real,
        ..PlanOptions::default()
    };
    seed_runner::run(seeds, &options, control)
}

#[test]
fn tensors_after_injected_faults_equal_those_without_faults() {
    let results = run(4, None);
    let failure = results.failure.as_ref();
    let violations = failure.map(|failure| (failure.seed, &failure.report.violations));
    assert_eq!(violations, None);
    assert!(
        results.totals.models > 3,
        "inconclusive: {:?}",
        results.totals
    );
    assert!(results.coverage.total_faults() > 100, "inconclusive");
}

#[test]
fn negative_control_step_or_gradient_applied_twice_is_detected() {
    for control in [Control::StepTwice, Control::GradientTwice] {
        let failure = run(20, Some(control)).failure;
        let failure = failure.unwrap_or_else(|| panic!("{} is not found", control.name()));
        for violation in &failure.report.violations {
            assert_eq!(
                violation.invariant,
                Invariant::Weights,
                "{}",
                violation.text
            );
        }
    }
}
