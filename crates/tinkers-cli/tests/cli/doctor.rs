//! `tinkers doctor` against servers of several dialects.

use serde_json::{Value, json};

use crate::bench::serve;
#[cfg(unix)]
use crate::program::Program;
use crate::program::{Outcome, run};
use crate::quickstart::object;

/// What is said of a scripted server that speaks `dialect`.
fn examine(dialect: &str, more: &[&str]) -> Outcome {
    let home = tempfile::tempdir().unwrap();
    let (_server, url) = serve(home.path(), &["--dialect", dialect]);
    let fixed = ["doctor", "--base-url", &url, "--api-key", "tml-hush"];
    run(home.path(), &[&fixed[..], more].concat())
}

fn told(dialect: &str) -> Value {
    let outcome = examine(dialect, &["--json", "--model", "tinkers/scripted"]);
    object(outcome.succeeded())
}

#[test]
fn it_says_which_dialect_a_server_speaks() {
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
            "tuft",
            "TuFT/0.1.0",
            "protobuf",
            "unknown",
            json!(true),
            "read",
        ),
    ] {
        let told = told(dialect);
        assert_eq!(told["software"].as_str().unwrap_or_default(), software);
        assert_eq!(told["pass_bodies"], bodies, "{dialect}");
        assert_eq!(told["pass_bodies_confirmed"], true, "{dialect}");
        assert_eq!(told["pass_error"], json!(null), "{dialect}");
        assert_eq!(told["repeats_applied_once"], repeats, "{dialect}");
        assert_eq!(told["is_strict"], strict, "{dialect}");
        assert_eq!(told["openapi_document"], document, "{dialect}");
        assert_eq!(told["models"], json!(["tinkers/scripted"]), "{dialect}");
        let advice = told["advice"].to_string();
        assert_eq!(
            advice.contains("OutcomeUnknown"),
            repeats == "unknown",
            "{advice}"
        );
    }
}

#[test]
fn it_says_what_a_server_lacks_and_what_to_do_and_never_the_key() {
    let outcome = examine("skyrl", &[]);
    let shown = &outcome.succeeded().stdout;
    let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    for needle in [
        "software Tinker API Mock/0.0.1",
        "bodies of passes json",
        "/api/v1/retrieve_futures",
        "What to do about it",
        "Save states often",
    ] {
        assert!(words.contains(needle), "no {needle:?} in\n{shown}");
    }
    assert!(!outcome.all().contains("hush"), "{outcome:#?}");
}

#[test]
fn a_model_that_is_missing_fails_the_run_after_the_findings() {
    let outcome = examine("tinker", &["--json", "--model", "nope"]);
    assert_eq!(outcome.code, Some(1), "{outcome:#?}");
    let found = object(&outcome);
    assert!(found["pass_error"].as_str().unwrap().contains("nope"));
    let line = "error: the pass through nope failed";
    assert!(outcome.stderr.contains(line), "{outcome:#?}");
}

/// A port that takes connections and never answers.
#[cfg(unix)]
fn black_hole() -> (std::net::TcpListener, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

#[cfg(unix)]
#[test]
fn a_server_that_never_answers_is_given_up() {
    let home = tempfile::tempdir().unwrap();
    let (_listener, url) = black_hole();
    let outcome = run(home.path(), &["doctor", "--base-url", &url]);
    let doing = format!("opening a session on {url}");
    outcome.failed(1, &[&format!("{doing} ..."), "no answer within 5 s while"]);
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_every_command_before_a_black_hole() {
    let home = tempfile::tempdir().unwrap();
    for command in [
        &["doctor"][..],
        &["quickstart"],
        &["bench", "sample"],
        &["bench", "train"],
    ] {
        let (listener, url) = black_hole();
        let arguments = [command, &["--base-url", &url, "--api-key", "tml-x"]].concat();
        let program = Program::start(home.path(), &arguments);
        // It listens for signals before it connects.
        let _connection = listener.accept().unwrap();
        program.signal("INT");
        let outcome = program.finish_promptly();
        assert_eq!(outcome.code, Some(130), "{command:?} {outcome:#?}");
    }
}

#[test]
fn a_server_that_is_not_there_is_a_failure_that_says_where() {
    let home = tempfile::tempdir().unwrap();
    let outcome = run(home.path(), &["doctor", "--base-url", "http://127.0.0.1:9"]);
    outcome.failed(1, &["127.0.0.1:9"]);
}
