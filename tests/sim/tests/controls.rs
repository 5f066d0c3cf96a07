//! Each fault of older clients is found.

use tinkers_sim::control::Control;
use tinkers_sim::plan::Cut;
use tinkers_sim::seeds;
use tinkers_sim::watch::Rule;

#[test]
fn each_fault_that_is_built_in_is_found() {
    let others = |control: &Control| RULES.iter().all(|(known, _)| known != control);
    for control in Control::ALL.into_iter().filter(others) {
        let results = seeds::run(2000, &Cut::default(), Some(control));
        assert!(results.failure.is_some(), "{} is not found", control.name());
    }
}

/// The controls of shared polls, turns, layers and subscribers, each with the rule that is to find it.
const RULES: [(Control, Rule); 9] = [
    (Control::SharedPollEnds, Rule::Waiters),
    (Control::UnpacedPolls, Rule::SharedPolls),
    (Control::UnendingPolls, Rule::SharedPolls),
    (Control::SpinningAcks, Rule::SharedPolls),
    (Control::FlightsFirst, Rule::Turns),
    (Control::ModelQueueUnheard, Rule::Queue),
    (Control::NestedWaits, Rule::Nested),
    (Control::LostWakeUps, Rule::Turns),
    (Control::LockedSubscribers, Rule::Foreign),
];

#[test]
fn each_of_these_faults_is_found_by_its_own_rule() {
    for (control, rule) in RULES {
        let results = seeds::run(2000, &Cut::default(), Some(control));
        let failure = results.failure;
        let failure = failure.unwrap_or_else(|| panic!("{} is not found", control.name()));
        let violations = &failure.ran.violations;
        let is_own = violations.iter().any(|violation| violation.rule == rule);
        assert!(is_own, "{}: {violations:?}", control.name());
    }
}
