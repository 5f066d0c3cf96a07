//! Simulations of the fraction of a server's capacity that the limits use, and of the refusals that this costs.
//!
//! The example of the same name prints the figures.
#![cfg(not(tinkers_loom))]

#[path = "support/cases.rs"]
mod cases;
#[path = "support/clients.rs"]
mod clients;
#[path = "support/sim.rs"]
mod sim;

use cases::{Figures, Group, NoiseCase};
use clients::Policy;

/// Simulates these groups of cases with clients of the kind `policy`. Returns a description of each required minimum that the results miss.
fn failures(groups: &[Group], policy: Policy) -> Vec<String> {
    let of = |group: &Group| {
        let outcomes = group.cases.iter().map(|case| sim::run(case, policy));
        let figures = Figures {
            outcomes: outcomes.collect(),
        };
        assert!(figures.refused_per_event() > 0.0, "no refusal");
        assert!(figures.worst_share() <= 1.0, "more than the capacity");
        group.failures(&figures)
    };
    groups.iter().flat_map(of).collect()
}

#[test]
fn limiter_uses_most_of_a_constant_server_capacity() {
    assert_eq!(failures(&cases::fixed(), Policy::Adaptive), [""; 0]);
}

#[test]
fn limiter_follows_a_stepwise_server_capacity() {
    assert_eq!(failures(&cases::steps(), Policy::Adaptive), [""; 0]);
}

#[test]
fn limiter_follows_a_random_walk_of_the_server_capacity() {
    assert_eq!(failures(&cases::walks(), Policy::Adaptive), [""; 0]);
}

#[test]
fn two_processes_share_the_server_capacity_evenly() {
    assert_eq!(failures(&cases::pairs(), Policy::Adaptive), [""; 0]);
}

/// Simulates these cases with random refusals (429 responses that do not depend on the load). Returns a description of each required
/// minimum that the results miss.
fn noise_failures(cases: &[NoiseCase]) -> Vec<String> {
    let of = |case: &NoiseCase| case.failures(&case.run(Policy::Adaptive));
    cases.iter().flat_map(of).collect()
}

#[test]
fn most_capacity_is_used_during_random_refusals() {
    let mut cases = cases::noise();
    cases.retain(|case| !case.is_burst);
    assert_eq!(noise_failures(&cases), [""; 0]);
}

#[test]
fn in_flight_limit_recovers_two_seconds_after_random_refusals() {
    let mut cases = cases::noise();
    cases.retain(|case| case.is_burst);
    assert_eq!(noise_failures(&cases), [""; 0]);
}

#[test]
fn negative_control_fixed_in_flight_limit_is_refused_too_often() {
    let mut cases = cases::fixed();
    // With a large window, this client is refused so often that the simulation takes long.
    cases.retain(|group| group.name != "W = 500");
    let count = cases.len();
    let failures = failures(&cases, Policy::FixedWindow);
    let is_refusal_share = |what: &&String| what.contains("refusals per accepted");
    assert_eq!(
        failures.iter().filter(is_refusal_share).count(),
        count,
        "{failures:?}"
    );
}

#[test]
fn negative_control_gate_open_to_all_after_a_pause_is_detected() {
    let failures = failures(&cases::fixed(), Policy::OpensAtDeadline);
    let is_refusal_share = |what: &String| what.contains("refusals per accepted");
    assert!(failures.iter().any(is_refusal_share), "{failures:?}");
}

#[test]
fn goodput_simulation_is_deterministic() {
    let cases = &cases::walks()[0].cases;
    let run = |number: usize| sim::run(&cases[number], Policy::Adaptive);
    let (once, again, other) = (run(0), run(0), run(1));
    assert_eq!((once.took, once.refused), (again.took, again.refused));
    assert_eq!(once.events, again.events);
    assert_ne!(once.took, other.took, "the seed determines the walk");
}
