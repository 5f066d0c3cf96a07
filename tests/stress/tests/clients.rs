//! Runs the command line with some profiles for two seconds each, and with negative controls that
//! it must detect.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tinkers_stress::clients::Control;

/// Runs the stress program with the profile `profile` and the further arguments `more`. Returns its
/// exit status and its JSON output.
fn stress(profile: &str, more: &[&str]) -> (Option<i32>, Value) {
    let name = format!("stress-{profile}{}.html", more.concat());
    let report = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let output = Command::new(env!("CARGO_BIN_EXE_tinkers-stress"))
        .args(["--json", "--secs", "2", "--seed", "7340032"])
        .args(["--profile", profile, "--report"])
        .arg(&report)
        .args(more)
        .output()
        .expect("the program runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let outcome = text.lines().last().unwrap_or_default();
    let outcome = serde_json::from_str(outcome).unwrap_or_else(|error| panic!("{error}: {text:?}"));
    let page = std::fs::read_to_string(&report).expect("a report");
    assert!(page.contains("<svg") && !page.contains("http"), "{page}");
    (output.status.code(), outcome)
}

fn check_passes(profile: &str) {
    let (status, outcome) = stress(profile, &["--clients", "2"]);
    assert_eq!(status, Some(0), "{outcome}");
    assert_eq!(outcome["verdict"], "passed");
    let sample = &outcome["calls"]["sample"];
    let count = |of: &str| sample[of].as_u64().unwrap_or(0);
    let ends = ["ok", "not_sent", "failed_otherwise", "cancelled"].map(count);
    assert!(count("ok") > 0, "{outcome}");
    assert_eq!(ends.iter().sum::<u64>(), count("called"), "{outcome}");
}

#[test]
fn calls_are_applied_exactly_once_despite_disconnects() {
    check_passes("disconnects");
}

#[test]
fn calls_are_applied_exactly_once_under_rate_limits() {
    check_passes("rate-limited");
}

#[test]
fn calls_are_applied_exactly_once_while_clients_come_and_go() {
    check_passes("churn");
}

#[test]
fn stress_run_that_never_reaches_the_server_limit_is_inconclusive() {
    let (status, outcome) = stress("rate-limited", &["--clients", "1", "--tasks", "1"]);
    assert_eq!(status, Some(2), "{outcome}");
    assert_eq!(outcome["violations"], Value::Array(Vec::new()));
}

#[test]
fn negative_control_bugs_of_the_engine_are_detected() {
    for control in Control::ALL {
        let options = ["--control", control.name(), "--patience", "1"];
        let (status, outcome) = stress("clean", &options);
        assert_eq!(status, Some(1), "{}: {outcome}", control.name());
        let expected = match control {
            Control::DoubledStep => "were applied more than once",
            Control::SkippedStep => "succeeded and were not applied",
            Control::SwappedSample => "returned the result of another call",
            Control::LostReply => "never ended",
        };
        let violations = outcome["violations"].to_string();
        assert!(
            violations.contains(expected),
            "{}: {violations}",
            control.name()
        );
    }
}
