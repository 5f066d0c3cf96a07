//! Whole clients under some profiles, for two seconds each, as the command runs them; and servers whose faults it has to find.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tinkers_stress::clients::Control;

/// Runs the command: its exit status, and what it says.
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
    let said = text.lines().last().unwrap_or_default();
    let said = serde_json::from_str(said).unwrap_or_else(|error| panic!("{error}: {text:?}"));
    let page = std::fs::read_to_string(&report).expect("a report");
    assert!(page.contains("<svg") && !page.contains("http"), "{page}");
    (output.status.code(), said)
}

fn holds(profile: &str) {
    let (status, said) = stress(profile, &["--clients", "2"]);
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(said["verdict"], "holds");
    let sample = &said["calls"]["sample"];
    let count = |of: &str| sample[of].as_u64().unwrap_or(0);
    let ends = ["ok", "not_sent", "failed_otherwise", "given_up"].map(count);
    assert!(count("ok") > 0, "{said}");
    assert_eq!(ends.iter().sum::<u64>(), count("called"), "{said}");
}

#[test]
fn counts_are_exact_where_connections_break() {
    holds("disconnects");
}

#[test]
fn counts_are_exact_before_a_full_server() {
    holds("rate-limited");
}

#[test]
fn counts_are_exact_while_clients_come_and_go() {
    holds("churn");
}

#[test]
fn a_server_that_is_never_full_shows_nothing() {
    let (status, said) = stress("rate-limited", &["--clients", "1", "--tasks", "1"]);
    assert_eq!(status, Some(2), "{said}");
    assert_eq!(said["broken"], Value::Array(Vec::new()));
}

#[test]
fn each_fault_of_a_server_is_found() {
    for control in Control::ALL {
        let options = ["--control", control.name(), "--patience", "1"];
        let (status, said) = stress("clean", &options);
        assert_eq!(status, Some(1), "{}: {said}", control.name());
        let expected = match control {
            Control::DoubledStep => "were applied more than once",
            Control::SkippedStep => "ended well and were not applied",
            Control::SwappedSample => "gave what is not theirs",
            Control::LostReply => "never ended",
        };
        let broken = said["broken"].to_string();
        assert!(broken.contains(expected), "{}: {broken}", control.name());
    }
}
