//! `tinkers bench` against `tinkers serve --engine scripted` in another process.

use serde_json::Value;

use crate::program::{Outcome, Program, run};
use crate::quickstart::object;
use crate::serve::fetch;

/// A scripted server with these options, and its address.
pub(crate) fn serve(home: &std::path::Path, options: &[&str]) -> (Program, String) {
    let fixed = ["serve", "--port", "0", "--engine", "scripted"];
    let mut server = Program::start(home, &[&fixed[..], options].concat());
    let url = server.line("listening on ");
    (server, url)
}

fn counts(url: &str) -> Value {
    let answer = fetch(url, "/scripted/counts");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    serde_json::from_str(body).unwrap()
}

fn number(value: &Value, pointer: &str) -> f64 {
    let number = value.pointer(pointer).and_then(Value::as_f64);
    number.unwrap_or_else(|| panic!("{pointer} is no number in {value}"))
}

fn sample(home: &std::path::Path, url: &str, more: &[&str]) -> Outcome {
    let fixed = ["bench", "sample", "--base-url", url];
    run(home, &[&fixed[..], more].concat())
}

#[test]
fn samples_are_counted_as_the_server_counts_them() {
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
    let told = object(outcome.succeeded());
    let seen = counts(&url);
    assert_eq!(
        (told["load"].as_str(), told["model"].as_str()),
        (Some("sample"), Some("tinkers/scripted"))
    );
    assert_eq!(
        (&told["requests"], &told["failed"]),
        (&12.into(), &0.into())
    );
    assert_eq!(
        (&seen["accepted"], &seen["most_in_flight"]),
        (&12.into(), &3.into())
    );
    // Twelve at once on a window of three: some were refused, and both sides saw the same ones.
    assert_eq!(told["rejections"], seen["refused"]);
    assert!(number(&told, "/rejections") > 0.0, "{told}");
    // Each sample is a submission and a poll at least, each refusal a submission.
    assert!(
        number(&told, "/exchanges") >= 24.0 + number(&told, "/rejections"),
        "{told}"
    );
    let tokens = number(&told, "/tokens_per_second") * number(&told, "/seconds");
    assert!((tokens - 12.0 * 2.0 * 9.0).abs() < 1e-3, "{told}");
    let order =
        ["/p50", "/p90", "/p99", "/max"].map(|name| number(&told, &format!("/latency_ms{name}")));
    assert!(order.is_sorted() && order[0] >= 5.0, "{told}");
    #[cfg(target_os = "linux")]
    {
        assert!(number(&told, "/cpu_seconds") > 0.0, "{told}");
        assert!(number(&told, "/connections") >= 1.0, "{told}");
        assert!(
            number(&told, "/peak_resident_bytes") > number(&told, "/resident_bytes_before") / 2.0
        );
    }
    assert!(
        outcome.stderr.contains("12 requests, 12 at once"),
        "{outcome:#?}"
    );
}

#[test]
fn no_more_than_the_concurrency_are_under_way() {
    let home = tempfile::tempdir().unwrap();
    let (_server, url) = serve(home.path(), &["--latency", "5", "--sample-tokens", "4"]);
    let load = ["--requests", "20", "--concurrency", "2"];
    let outcome = sample(home.path(), &url, &load);
    // For people, in plain lines.
    let text = &outcome.succeeded().stdout;
    for needle in [
        "20 requests, 2 at once",
        "0 failed",
        "requests/s",
        "p50 ",
        "per request",
        "Result",
    ] {
        assert!(text.contains(needle), "no {needle:?} in {outcome:#?}");
    }
    assert!(!outcome.all().contains('\u{1b}'), "{outcome:#?}");
    let seen = counts(&url);
    assert_eq!(
        (&seen["accepted"], &seen["refused"]),
        (&20.into(), &0.into())
    );
    assert_eq!(seen["most_in_flight"], 2);
}

#[test]
fn training_is_counted_in_passes_and_steps() {
    let home = tempfile::tempdir().unwrap();
    let (_server, url) = serve(home.path(), &[]);
    let load = ["bench", "train", "--base-url", &url, "--rounds", "3"];
    let size = ["--batch", "2", "--seq-len", "16", "--json"];
    let outcome = run(home.path(), &[&load[..], &size].concat());
    let told = object(outcome.succeeded());
    assert_eq!(told["load"], "train");
    assert_eq!((&told["requests"], &told["failed"]), (&6.into(), &0.into()));
    let tokens = number(&told, "/tokens_per_second") * number(&told, "/seconds");
    assert!((tokens - 3.0 * 2.0 * 16.0).abs() < 1e-3, "{told}");
}

#[test]
fn requests_that_fail_are_counted_and_fail_the_run() {
    let home = tempfile::tempdir().unwrap();
    let (_server, url) = serve(home.path(), &[]);
    // The model's context is shorter than that.
    let load = ["--requests", "3", "--prompt-len", "5000", "--json"];
    let outcome = sample(home.path(), &url, &load);
    assert_eq!(outcome.code, Some(1), "{outcome:#?}");
    let told = object(&outcome);
    assert_eq!((&told["requests"], &told["failed"]), (&3.into(), &3.into()));
    assert!(told["cpu_us_per_request"].is_null(), "{told}");
    for needle in ["3 of 3 requests failed", "4096"] {
        assert!(
            outcome.stderr.contains(needle),
            "no {needle:?} in {outcome:#?}"
        );
    }
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_a_load_whose_server_has_stopped() {
    let home = tempfile::tempdir().unwrap();
    for load in ["sample", "train"] {
        // The model of the training load is made after that, too.
        let (server, url) = serve(home.path(), &["--latency", "3000"]);
        let arguments = ["bench", load, "--base-url", &url];
        let mut program = Program::start(home.path(), &arguments);
        program.line("load ");
        // The server keeps its connections and answers nothing any more.
        server.signal("STOP");
        program.signal("INT");
        let outcome = program.finish_promptly();
        server.signal("CONT");
        assert_eq!(outcome.code, Some(130), "{load} {outcome:#?}");
    }
}

#[test]
fn what_cannot_work_is_said_at_once() {
    let home = tempfile::tempdir().unwrap();
    run(home.path(), &["bench", "sample"])
        .failed(2, &["--base-url", "Usage: tinkers bench sample"]);
    run(home.path(), &["bench"]).failed(2, &["sample", "train"]);
    sample(home.path(), "127.0.0.1:9", &[]).failed(1, &["base_url", "http://"]);
    let zero = ["--requests", "0"];
    sample(home.path(), "http://127.0.0.1:9", &zero).failed(2, &["--requests"]);
    let (_server, url) = serve(home.path(), &[]);
    let unknown = ["--model", "no/such"];
    sample(home.path(), &url, &unknown).failed(1, &["no/such"]);
    drop(_server);
    sample(home.path(), &url, &[]).failed(1, &[&format!("no session on {url}")]);
}

#[test]
fn options_of_the_scripted_engine_are_refused_without_it() {
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
