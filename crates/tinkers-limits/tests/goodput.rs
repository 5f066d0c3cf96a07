//! What share of a server's window the limits make use of, in simulated time, and at what price in refusals.
//!
//! The example of the same name prints the figures.
#![cfg(not(tinkers_loom))]

#[path = "support/cases.rs"]
mod cases;
#[path = "support/clients.rs"]
mod clients;
#[path = "support/sim.rs"]
mod sim;

use cases::{Figures, Group, Storm};
use clients::Policy;

/// What a client lacks in all of these cases together.
fn lacks(groups: &[Group], policy: Policy) -> Vec<String> {
    let of = |group: &Group| {
        let outcomes = group.cases.iter().map(|case| sim::run(case, policy));
        let figures = Figures {
            outcomes: outcomes.collect(),
        };
        assert!(figures.refused_per_event() > 0.0, "nothing was refused");
        assert!(figures.worst_share() <= 1.0, "more than there is");
        group.lacks(&figures)
    };
    groups.iter().flat_map(of).collect()
}

#[test]
fn a_fixed_window_is_made_use_of() {
    assert_eq!(lacks(&cases::fixed(), Policy::Learns), [""; 0]);
}

#[test]
fn a_window_in_steps_is_followed() {
    assert_eq!(lacks(&cases::steps(), Policy::Learns), [""; 0]);
}

#[test]
fn a_walking_window_is_followed() {
    assert_eq!(lacks(&cases::walks(), Policy::Learns), [""; 0]);
}

#[test]
fn two_processes_of_one_key_come_to_an_even_share() {
    assert_eq!(lacks(&cases::pairs(), Policy::Learns), [""; 0]);
}

/// What is lacking in storms of which three, ten or thirty in a hundred requests are refused.
fn storm_lacks(storms: &[Storm]) -> Vec<String> {
    let of = |storm: &Storm| storm.lacks(&storm.run(Policy::Learns));
    storms.iter().flat_map(of).collect()
}

#[test]
fn refusals_whatever_is_in_flight_leave_the_window_open() {
    let mut storms = cases::storms();
    storms.retain(|storm| !storm.is_burst);
    assert_eq!(storm_lacks(&storms), [""; 0]);
}

#[test]
fn two_seconds_after_refusals_whatever_is_in_flight_all_flows() {
    let mut storms = cases::storms();
    storms.retain(|storm| storm.is_burst);
    assert_eq!(storm_lacks(&storms), [""; 0]);
}

#[test]
fn a_client_that_learns_nothing_is_refused_too_often() {
    let mut cases = cases::fixed();
    // It meets so many refusals at a large window that the simulation takes long.
    cases.retain(|group| group.name != "W = 500");
    let count = cases.len();
    let lacks = lacks(&cases, Policy::FixedWindow);
    let is_refused = |what: &&String| what.contains("refused for one");
    assert_eq!(lacks.iter().filter(is_refused).count(), count, "{lacks:?}");
}

#[test]
fn a_client_that_opens_for_all_is_refused_too_often() {
    let lacks = lacks(&cases::fixed(), Policy::OpensForAll);
    let is_refused = |what: &String| what.contains("refused for one");
    assert!(lacks.iter().any(is_refused), "{lacks:?}");
}

#[test]
fn the_same_case_gives_the_same_outcome() {
    let cases = &cases::walks()[0].cases;
    let run = |number: usize| sim::run(&cases[number], Policy::Learns);
    let (once, again, other) = (run(0), run(0), run(1));
    assert_eq!((once.took, once.refused), (again.took, again.refused));
    assert_eq!(once.events, again.events);
    assert_ne!(once.took, other.took, "the seed says how it walks");
}
