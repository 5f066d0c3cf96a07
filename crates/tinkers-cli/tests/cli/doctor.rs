//! `tinkers doctor` against servers of several dialects.

use serde_json::{Value, json};

use crate::bench::serve;
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
fn a_server_that_is_not_there_is_a_failure_that_says_where() {
    let home = tempfile::tempdir().unwrap();
    let outcome = run(home.path(), &["doctor", "--base-url", "http://127.0.0.1:9"]);
    outcome.failed(1, &["127.0.0.1:9"]);
}
