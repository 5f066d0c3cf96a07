//! Tests that the checks of the simulator find each bug that a negative control builds in.

use tinkers_sim::control::Control;
use tinkers_sim::invariant::Invariant;
use tinkers_sim::plan::PlanOptions;
use tinkers_sim::seed_runner::{self, SeedFailure};

/// The negative controls (bugs that the simulation builds in) for which a test also checks which
/// invariant is violated, each with this invariant.
const INVARIANTS: [(Control, Invariant); 9] = [
    (Control::SharedPollEnds, Invariant::FailureIsolation),
    (Control::UnpacedPolls, Invariant::SharedPollRate),
    (Control::EndlessAcks, Invariant::SharedPollRate),
    (Control::SpinningAcks, Invariant::SharedPollRate),
    (Control::UnfairRetries, Invariant::Fairness),
    (Control::IgnoredModelQueueProgress, Invariant::QueueProgress),
    (Control::NestedDeadlock, Invariant::NestedRequests),
    (Control::LostWakeUps, Invariant::Fairness),
    (
        Control::SubscribersUnderLock,
        Invariant::SubscriberReentrancy,
    ),
];

fn find(control: Control) -> SeedFailure {
    let results = seed_runner::run(2000, &PlanOptions::default(), Some(control));
    let failure = results.failure;
    failure.unwrap_or_else(|| panic!("{} is not found", control.name()))
}

#[test]
fn negative_control_bugs_built_into_the_client_are_detected() {
    let is_other = |control: &Control| INVARIANTS.iter().all(|(known, _)| known != control);
    for control in Control::ALL.into_iter().filter(is_other) {
        find(control);
    }
}

#[test]
fn negative_control_bugs_violate_the_expected_invariants() {
    for (control, expected) in INVARIANTS {
        let violations = find(control).report.violations;
        let is_expected = violations.iter().any(|found| found.invariant == expected);
        assert!(is_expected, "{}: {violations:?}", control.name());
    }
}
