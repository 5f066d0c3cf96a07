//! `tinkers doctor` against servers of several dialects.

use serde_json::{Value, json};

use crate::bench::serve;
#[cfg(unix)]
use crate::program::Program;
use crate::program::{Outcome, run};
use crate::quickstart::object;

/// Runs `tinkers doctor` on a scripted server that imitates `dialect`.
fn examine(dialect: &str, more: &[&str]) -> Outcome {
    let home = tempfile::tempdir().unwrap();
    let (_server, url) = serve(home.path(), &["--dialect", dialect]);
    let fixed = ["doctor", "--base-url", &url, "--api-key", "tml-secret"];
    run(home.path(), &[&fixed[..], more].concat())
}

fn findings(dialect: &str) -> Value {
    let outcome = examine(dialect, &["--json", "--model", "tinkers/scripted"]);
    object(outcome.succeeded())
}

#[test]
fn doctor_identifies_the_dialect_of_the_server() {
    for (dialect, software, bodies, repeats, strict, document) in [
        (
            "tinker",
            "tinkers-local/0.1.0",
            "protobuf",
            "everything",
            json!(null),
            "not asked",
        ),
        ("json-strict", "", "json", "unknown", json!(null), "absent"),
        (
            "skyrl",
            "Tinker API Mock/0.0.1",
            "json",
            "unknown",
            json!(null),
            "read",
        ),
        (
            "skyrl-main",
            "Tinker API Mock/0.0.1",
            "protobuf",
            "passes and steps",
            json!(null),
            "read",
        ),
        (
            "hatchery",
            "Tinker-Compatible Training Platform/0.3.0",
            "json",
            "unknown",
            json!(null),
            "read",
        ),
        (
            "tuft",
            "TuFT/0.1.0",
            "protobuf",
            "unknown",
            json!(true),
            "read",
        ),
    ] {
        let findings = findings(dialect);
        assert_eq!(findings["software"].as_str().unwrap_or_default(), software);
        assert_eq!(findings["pass_bodies"], bodies, "{dialect}");
        assert_eq!(findings["pass_bodies_confirmed"], true, "{dialect}");
        assert_eq!(findings["pass_error"], json!(null), "{dialect}");
        assert_eq!(findings["repeats_applied_once"], repeats, "{dialect}");
        assert_eq!(findings["is_strict"], strict, "{dialect}");
        assert_eq!(findings["openapi_document"], document, "{dialect}");
        assert_eq!(findings["models"], json!(["tinkers/scripted"]), "{dialect}");
        let advice = findings["advice"].to_string();
        assert_eq!(
            advice.contains("OutcomeUnknown"),
            repeats == "unknown",
            "{advice}"
        );
    }
}

#[test]
fn doctor_text_has_findings_and_advice_but_no_api_key() {
    let outcome = examine("skyrl", &[]);
    let shown = &outcome.succeeded().stdout;
    let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    for needle in [
        "software Tinker API Mock/0.0.1",
        "bodies of passes json",
        "/api/v1/retrieve_futures",
        "Advice",
        "Save states often",
    ] {
        assert!(words.contains(needle), "no {needle:?} in\n{shown}");
    }
    assert!(!outcome.all().contains("secret"), "{outcome:#?}");
}

#[test]
fn doctor_reports_a_failed_test_pass_after_the_findings() {
    let outcome = examine("tinker", &["--json", "--model", "nope"]);
    assert_eq!(outcome.code, Some(1), "{outcome:#?}");
    let findings = object(&outcome);
    assert!(findings["pass_error"].as_str().unwrap().contains("nope"));
    let line = "error: the test pass on nope failed";
    assert!(outcome.stderr.contains(line), "{outcome:#?}");
}

/// Opens a port that accepts connections but never responds.
#[cfg(unix)]
fn silent_listener() -> (std::net::TcpListener, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

#[cfg(unix)]
#[test]
fn doctor_times_out_on_an_unresponsive_server() {
    let home = tempfile::tempdir().unwrap();
    let (_listener, url) = silent_listener();
    let outcome = run(home.path(), &["doctor", "--base-url", &url]);
    let step = format!("opening a session on {url}");
    outcome.failed(5, &[&format!("{step} ..."), "no response within 5 s while"]);
}

#[cfg(unix)]
#[test]
fn interrupt_ends_commands_that_wait_for_an_unresponsive_server() {
    let home = tempfile::tempdir().unwrap();
    for command in [
        &["doctor"][..],
        &["quickstart"],
        &["bench", "sample"],
        &["bench", "train"],
    ] {
        let (listener, url) = silent_listener();
        let arguments = [command, &["--base-url", &url, "--api-key", "tml-x"]].concat();
        let program = Program::start(home.path(), &arguments);
        // The program installs its signal handlers before it connects.
        let _connection = listener.accept().unwrap();
        program.signal("INT");
        let outcome = program.finish_promptly();
        assert_eq!(outcome.code, Some(130), "{command:?} {outcome:#?}");
    }
}

#[test]
fn doctor_error_names_the_unreachable_server() {
    let home = tempfile::tempdir().unwrap();
    let outcome = run(home.path(), &["doctor", "--base-url", "http://127.0.0.1:9"]);
    outcome.failed(5, &["127.0.0.1:9"]);
}
