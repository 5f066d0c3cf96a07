//! Tests that the checks of the simulator find each bug that a negative control builds in.

use tinkers_sim::control::Control;
use tinkers_sim::invariant::Invariant;
use tinkers_sim::plan::{Plan, PlanOptions};
use tinkers_sim::seed_runner::{self, SeedFailure};
use tinkers_sim::simulation::{self, RunReport};
use tinkers_sim::trace::KeptLines;

/// The number of seeds in which each bug must be found.
const SEEDS: u64 = 2000;

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
    let results = seed_runner::run(SEEDS, &PlanOptions::default(), Some(control));
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
        let first = find(control);
        let violates = |report: &RunReport| {
            let mut found = report.violations.iter();
            found.any(|violation| violation.invariant == expected)
        };
        // Another invariant may notice the bug in an earlier seed.
        let later = || {
            (first.seed + 1..SEEDS).any(|seed| {
                let plan = Plan::new(seed, &PlanOptions::default());
                violates(&simulation::run(&plan, Some(control), KeptLines::Last))
            })
        };
        let is_found = violates(&first.report) || later();
        assert!(is_found, "{}: {:?}", control.name(), first.report);
    }
}
