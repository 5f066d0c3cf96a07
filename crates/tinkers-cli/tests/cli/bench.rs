//! `tinkers bench` against `tinkers serve --engine scripted` in another process.

use serde_json::Value;

use crate::program::{Outcome, Program, run};
use crate::quickstart::object;
use crate::serve::fetch;

/// Starts a server with the scripted engine. Returns the running program and its URL.
pub(crate) fn serve(home: &std::path::Path, options: &[&str]) -> (Program, String) {
    let fixed = ["serve", "--port", "0", "--engine", "scripted"];
    let mut server = Program::start(home, &[&fixed[..], options].concat());
    let url = server.line("listening on ");
    (server, url)
}

fn server_counts(url: &str) -> Value {
    let response = fetch(url, "/scripted/counts");
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{response}");
    serde_json::from_str(body).unwrap()
}

fn number(value: &Value, pointer: &str) -> f64 {
    let number = value.pointer(pointer).and_then(Value::as_f64);
    number.unwrap_or_else(|| panic!("{pointer} is not a number in {value}"))
}

fn sample(home: &std::path::Path, url: &str, more: &[&str]) -> Outcome {
    let fixed = ["bench", "sample", "--base-url", url];
    run(home, &[&fixed[..], more].concat())
}

#[test]
fn bench_sample_report_matches_the_counters_of_the_server() {
    let home = tempfile::tempdir().unwrap();
    let window = ["--window", "3", "--hint-ms", "20", "--latency", "5"];
    let (_server, url) = serve(home.path(), &window);
    let load = [
        "--requests",
        "12",
        "--max-tokens",
        "9",
        "--num-samples",
        "2",
    ];
    let outcome = sample(home.path(), &url, &[&load[..], &["--json"]].concat());
    let report = object(outcome.succeeded());
    let counts = server_counts(&url);
    assert_eq!(
        (report["load"].as_str(), report["model"].as_str()),
        (Some("sample"), Some("tinkers/scripted"))
    );
    assert_eq!(
        (&report["requests"], &report["failed"]),
        (&12.into(), &0.into())
    );
    assert_eq!(
        (&counts["accepted"], &counts["most_in_flight"]),
        (&12.into(), &3.into())
    );
    // With 12 concurrent requests and a limit of 3 in flight, some are rejected. Client and server count the same rejections.
    assert_eq!(report["rejections"], counts["refused"]);
    assert!(number(&report, "/rejections") > 0.0, "{report}");
    // Each sample takes at least a submission and a poll, each rejection a submission.
    assert!(
        number(&report, "/exchanges") >= 24.0 + number(&report, "/rejections"),
        "{report}"
    );
    let tokens = number(&report, "/tokens_per_second") * number(&report, "/seconds");
    assert!((tokens - 12.0 * 2.0 * 9.0).abs() < 1e-3, "{report}");
    let order =
        ["/p50", "/p90", "/p99", "/max"].map(|name| number(&report, &format!("/latency_ms{name}")));
    assert!(order.is_sorted() && order[0] >= 5.0, "{report}");
    #[cfg(target_os = "linux")]
    {
        assert!(number(&report, "/cpu_seconds") > 0.0, "{report}");
        assert!(number(&report, "/connections") >= 1.0, "{report}");
        assert!(
            number(&report, "/peak_resident_bytes")
                > number(&report, "/resident_bytes_before") / 2.0
        );
    }
    assert!(
        outcome.stderr.contains("12 requests, 12 concurrent"),
        "{outcome:#?}"
    );
}

#[test]
fn bench_concurrency_option_limits_the_samples_in_flight() {
    let home = tempfile::tempdir().unwrap();
    let (_server, url) = serve(home.path(), &["--latency", "5", "--sample-tokens", "4"]);
    let load = ["--requests", "20", "--concurrency", "2"];
    let outcome = sample(home.path(), &url, &load);
    // Without --json, the report is plain text.
    let text = &outcome.succeeded().stdout;
    for needle in [
        "20 requests, 2 concurrent",
        "0 failed",
        "requests/s",
        "p50 ",
        "per request",
        "Result",
    ] {
        assert!(text.contains(needle), "no {needle:?} in {outcome:#?}");
    }
    assert!(!outcome.all().contains('\u{1b}'), "{outcome:#?}");
    let counts = server_counts(&url);
    assert_eq!(
        (&counts["accepted"], &counts["refused"]),
        (&20.into(), &0.into())
    );
    assert_eq!(counts["most_in_flight"], 2);
}

#[test]
fn bench_training_report_counts_passes_and_optimizer_steps() {
    let home = tempfile::tempdir().unwrap();
    let (_server, url) = serve(home.path(), &[]);
    let load = ["bench", "train", "--base-url", &url, "--rounds", "3"];
    let size = ["--batch", "2", "--seq-len", "16", "--json"];
    let outcome = run(home.path(), &[&load[..], &size].concat());
    let report = object(outcome.succeeded());
    assert_eq!(report["load"], "train");
    assert_eq!(
        (&report["requests"], &report["failed"]),
        (&6.into(), &0.into())
    );
    let tokens = number(&report, "/tokens_per_second") * number(&report, "/seconds");
    assert!((tokens - 3.0 * 2.0 * 16.0).abs() < 1e-3, "{report}");
}

#[test]
fn failed_bench_requests_are_counted_and_fail_the_command() {
    let home = tempfile::tempdir().unwrap();
    let (_server, url) = serve(home.path(), &[]);
    // The prompt exceeds the context length of the model.
    let load = ["--requests", "3", "--prompt-len", "5000", "--json"];
    let outcome = sample(home.path(), &url, &load);
    assert_eq!(outcome.code, Some(1), "{outcome:#?}");
    let report = object(&outcome);
    assert_eq!(
        (&report["requests"], &report["failed"]),
        (&3.into(), &3.into())
    );
    assert!(report["cpu_us_per_request"].is_null(), "{report}");
    for needle in ["3 of 3 requests failed", "4096"] {
        assert!(
            outcome.stderr.contains(needle),
            "no {needle:?} in {outcome:#?}"
        );
    }
}

#[cfg(unix)]
#[test]
fn interrupt_ends_a_bench_load_on_a_stopped_server() {
    let home = tempfile::tempdir().unwrap();
    for load in ["sample", "train"] {
        // The latency also delays the creation of the model, so the training load is still starting.
        let (server, url) = serve(home.path(), &["--latency", "3000"]);
        let arguments = ["bench", load, "--base-url", &url];
        let mut program = Program::start(home.path(), &arguments);
        program.line("load ");
        // A stopped server keeps its connections open but does not respond.
        server.signal("STOP");
        program.signal("INT");
        let outcome = program.finish_promptly();
        server.signal("CONT");
        assert_eq!(outcome.code, Some(130), "{load} {outcome:#?}");
    }
}

#[test]
fn bench_errors_name_the_invalid_argument() {
    let home = tempfile::tempdir().unwrap();
    run(home.path(), &["bench", "sample"])
        .failed(2, &["--base-url", "Usage: tinkers bench sample"]);
    run(home.path(), &["bench"]).failed(2, &["sample", "train"]);
    sample(home.path(), "127.0.0.1:9", &[]).failed(2, &["base_url", "http://"]);
    let zero = ["--requests", "0"];
    sample(home.path(), "http://127.0.0.1:9", &zero).failed(2, &["--requests"]);
    let (server, url) = serve(home.path(), &[]);
    let unknown = ["--model", "no/such"];
    sample(home.path(), &url, &unknown).failed(3, &["no/such"]);
    drop(server);
    sample(home.path(), &url, &[]).failed(5, &[&format!("cannot open a session on {url}")]);
}

#[test]
fn scripted_options_require_the_scripted_engine() {
    let home = tempfile::tempdir().unwrap();
    for option in [
        ["--window", "3"],
        ["--latency", "3"],
        ["--scripted-bytes", "3"],
    ] {
        let arguments = ["serve", "--port", "0", option[0], option[1]];
        run(home.path(), &arguments).failed(2, &["--engine scripted", "Usage: tinkers serve"]);
    }
}
