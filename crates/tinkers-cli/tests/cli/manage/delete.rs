//! `tinkers checkpoint delete`: the choice of checkpoints, the question, and the report of failures.

use std::process::{Command, Stdio};

use serde_json::json;

use super::manage;
use super::responder::{Answer, Responder};

const CHECKPOINTS: [(&str, &str, &str); 4] = [
    ("weights", "step-1", "2026-01-01T00:00:00Z"),
    ("sampler_weights", "step-1", "2026-01-02T00:00:00Z"),
    ("sampler_weights", "step-20", "2026-01-03T12:00:00Z"),
    ("sampler_weights", "final", "2026-01-04T00:00:00Z"),
];

/// Starts a server with the checkpoints of the run `r`. Those with the name `final` cannot be deleted.
fn responder() -> Responder {
    let kind = |segment| match segment {
        "weights" => "training",
        _ => "sampler",
    };
    let list = CHECKPOINTS.map(|(segment, name, time)| {
        json!({
            "checkpoint_id": format!("{segment}/{name}"), "checkpoint_type": kind(segment), "time": time,
            "tinker_path": format!("tinker://r/{segment}/{name}"), "size_bytes": 1024,
        })
    });
    let list = json!({
        "checkpoints": list,
        "cursor": {"offset": 0, "limit": 1000, "total_count": 4},
    });
    let mut answers = vec![
        Answer::ok("GET /training_runs/r/checkpoints", &list),
        Answer::ok("GET /checkpoints", &list),
    ];
    for (segment, name, _) in CHECKPOINTS {
        let request = format!("DELETE /training_runs/r/checkpoints/{segment}/{name}");
        answers.push(match name {
            "final" => Answer::new(&request, 500, r#"{"detail": "disk full"}"#)
                .with_headers("x-should-retry: false\r\n"),
            _ => Answer::ok(&request, "{}"),
        });
    }
    let missing = r#"{"detail": "no checkpoint \"gone\" on this server"}"#;
    let request = "DELETE /training_runs/r/checkpoints/weights/gone";
    answers.push(Answer::new(request, 404, missing));
    Responder::start(answers)
}

/// Returns the names of the deleted checkpoints, sorted.
fn deleted(server: &Responder) -> Vec<String> {
    let requests = server.requests().into_iter();
    let mut deleted: Vec<String> = requests
        .filter_map(|request| {
            let path = request.strip_prefix("DELETE /training_runs/r/checkpoints/")?;
            Some(path.to_owned())
        })
        .collect();
    deleted.sort();
    deleted
}

#[test]
fn filter_selects_the_checkpoints_to_delete() {
    let home = tempfile::tempdir().unwrap();
    for (filter, expected) in [
        (
            &["--run-id", "r", "--pattern", "step-*"][..],
            &[
                "sampler_weights/step-1",
                "sampler_weights/step-20",
                "weights/step-1",
            ][..],
        ),
        (&["--type", "training", "--all-runs"], &["weights/step-1"]),
        (&["--type", "weights", "--all-runs"], &["weights/step-1"]),
        (
            &[
                "--type",
                "sampler_weights",
                "--pattern",
                "step-?",
                "--all-runs",
            ],
            &["sampler_weights/step-1"],
        ),
        (
            &["--before", "2026-01-03T13:00:00+01:00", "--run-id", "r"],
            &["sampler_weights/step-1", "weights/step-1"],
        ),
        (
            &[
                "--after",
                "2026-01-03",
                "--before",
                "2026-01-04",
                "--all-runs",
            ],
            &["sampler_weights/step-20"],
        ),
        (&["--pattern", "none*", "--run-id", "r"], &[]),
    ] {
        let server = responder();
        let delete = ["checkpoint", "delete", "--yes", "--json"];
        let outcome = manage(home.path(), &server.url, &[&delete, filter].concat());
        let count = expected.len();
        let report = format!("{{\n  \"deleted_count\": {count},\n  \"failed\": []\n}}\n");
        assert_eq!(outcome.succeeded().stdout, report, "{filter:?}");
        assert_eq!(deleted(&server), expected, "{filter:?}");
        // Each chosen path is shown with its size before it is deleted.
        let shown: Vec<_> = outcome.stderr.lines().collect();
        if expected.is_empty() {
            assert_eq!(outcome.stderr, "", "{filter:?}");
            continue;
        }
        assert_eq!(shown.len(), count + 1, "{outcome:#?}");
        let title = format!("({count}.0 KB) on {}", server.url.trim_end_matches('/'));
        assert!(shown[0].contains(&title), "{outcome:#?}");
        for path in expected {
            let line = format!("  tinker://r/{path} (1.0 KB)");
            assert!(shown.contains(&line.as_str()), "{outcome:#?}");
        }
    }
}

#[test]
fn deletion_in_all_runs_without_a_question_needs_all_runs() {
    let home = tempfile::tempdir().unwrap();
    let server = responder();
    let delete = |arguments: &[&str]| {
        let delete = ["checkpoint", "delete"];
        manage(home.path(), &server.url, &[&delete, arguments].concat())
    };
    for filter in [
        ["--type", "training"],
        ["--pattern", "*"],
        ["--before", "2026-06-01"],
        ["--after", "2026-01-01"],
    ] {
        let refused = delete(&[&filter[..], &["--yes"]].concat());
        refused.failed(2, &["--all-runs", "--run-id ID", "tinkers checkpoint list"]);
    }
    let step = "tinker://r/weights/step-1";
    for (arguments, part) in [
        (&["--all-runs", "--yes"][..], "missing checkpoints"),
        (
            &["--all-runs", "--run-id", "r", "--yes"],
            "cannot be used with",
        ),
        (&["--all-runs", step, "--yes"], "cannot be used with"),
        // Without `--yes`, the question is enough.
        (&["--type", "training"], "there is no terminal"),
    ] {
        delete(arguments).failed(2, &[part]);
    }
    assert_eq!(server.requests(), [""; 0]);
    let all = ["--type", "training", "--all-runs", "--yes"];
    delete(&all).succeeded();
    assert_eq!(deleted(&server), ["weights/step-1"]);
}

/// Runs a deletion without a question with these outputs. Returns the exit code and the text on stderr, if it is a pipe.
fn delete_into(
    server: &Responder,
    arguments: &[&str],
    stdout: Stdio,
    stderr: Stdio,
) -> (Option<i32>, String) {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tinkers"));
    let program = crate::program::with_clean_environment(&mut command, home.path())
        .args(["checkpoint", "delete", "--yes", "--base-url", &server.url])
        .args(arguments)
        .env("TINKER_API_KEY", super::KEY)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .unwrap();
    let output = program.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), text)
}

/// Returns the writing end of a pipe whose reader has ended.
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    Stdio::from(writer)
}

#[test]
fn failed_deletion_sets_the_exit_code_if_stdout_is_closed() {
    let failing = [
        "tinker://r/weights/step-1",
        "tinker://r/weights/gone",
        "tinker://r/sampler_weights/final",
    ];
    for format in ["table", "json", "csv"] {
        let options = ["--format", format];
        for (paths, expected, part) in [
            (&failing[..1], 0, ""),
            (&failing[..2], 3, "1 of 2 deletions failed"),
            (&failing, 5, "2 of 3 deletions failed"),
        ] {
            let server = responder();
            let arguments = [&options, paths].concat();
            let (code, text) = delete_into(&server, &arguments, closed_pipe(), Stdio::piped());
            assert_eq!(code, Some(expected), "{format} {text}");
            assert!(text.contains(part), "{format} {text}");
            assert_eq!(deleted(&server).len(), paths.len());
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn failed_deletion_sets_the_exit_code_if_stdout_is_full() {
    let full = || Stdio::from(std::fs::File::create("/dev/full").unwrap());
    for (name, expected, part) in [
        ("step-1", 1, "No space left"),
        ("gone", 3, "the report cannot be written: No space left"),
    ] {
        let server = responder();
        let path = format!("tinker://r/weights/{name}");
        let arguments = [path.as_str(), "--json"];
        let (code, text) = delete_into(&server, &arguments, full(), Stdio::piped());
        assert_eq!(code, Some(expected), "{text}");
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn nothing_is_deleted_if_the_choice_cannot_be_shown() {
    let server = responder();
    let filter = ["--run-id", "r", "--pattern", "step-*"];
    let (code, _) = delete_into(&server, &filter, Stdio::null(), closed_pipe());
    assert_eq!(code, Some(1));
    assert_eq!(server.requests(), ["GET /training_runs/r/checkpoints"]);
}

#[test]
fn failed_deletion_does_not_end_the_others_and_sets_the_exit_code() {
    let home = tempfile::tempdir().unwrap();
    let paths = [
        "tinker://r/weights/gone",
        "tinker://r/weights/step-1",
        "tinker://r/sampler_weights/final",
    ];
    let delete = |paths: &[&str], format: &str| {
        let server = responder();
        let options = ["checkpoint", "delete", "--yes", "--format", format];
        let outcome = manage(home.path(), &server.url, &[&options, paths].concat());
        assert_eq!(deleted(&server).len(), paths.len());
        outcome
    };
    let outcome = delete(&paths, "json");
    assert_eq!(outcome.code, Some(5), "{outcome:#?}");
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(report["deleted_count"], 1);
    assert_eq!(report["failed"][0]["tinker_path"], paths[0]);
    assert_eq!(report["failed"][1]["tinker_path"], paths[2]);
    let error = report["failed"][1]["error"].as_str().unwrap();
    assert!(error.contains("disk full"), "{error}");
    assert!(
        outcome.stderr.contains("2 of 3 deletions failed"),
        "{outcome:#?}"
    );

    let outcome = delete(&paths[..2], "csv");
    assert_eq!(outcome.code, Some(3), "{outcome:#?}");
    let mut lines = outcome.stdout.lines();
    assert_eq!(lines.next(), Some("tinker_path,deleted,error"));
    assert_eq!(lines.next(), Some("tinker://r/weights/step-1,true,"));
    let failed = lines.next().unwrap();
    assert!(
        failed.starts_with("tinker://r/weights/gone,false,"),
        "{failed}"
    );

    let outcome = delete(&paths, "table");
    assert_eq!(outcome.code, Some(5), "{outcome:#?}");
    assert_eq!(outcome.stdout, "deleted 1 checkpoint\n");
    assert!(
        outcome
            .stderr
            .contains("not deleted: tinker://r/weights/gone: "),
        "{outcome:#?}"
    );
}

#[test]
fn nothing_is_deleted_without_agreement() {
    let home = tempfile::tempdir().unwrap();
    let server = responder();
    let paths = ["checkpoint", "delete", "tinker://r/weights/step-1"];
    manage(home.path(), &server.url, &paths).failed(2, &["--yes", "nothing is deleted"]);
    let filter = ["checkpoint", "delete", "--run-id", "r"];
    manage(home.path(), &server.url, &filter).failed(2, &["--yes", "nothing is deleted"]);
    assert_eq!(server.requests(), [""; 0]);
}

#[cfg(unix)]
#[test]
fn interrupted_deletion_says_how_many_checkpoints_are_deleted() {
    let home = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..20).map(|number| format!("step-{number}")).collect();
    // The last deletion gets no response.
    let answers = names.iter().map(|name| {
        let request = format!("DELETE /training_runs/r/checkpoints/weights/{name}");
        match name.as_str() {
            "step-19" => Answer::never(&request),
            _ => Answer::ok(&request, "{}"),
        }
    });
    let server = Responder::start(answers.collect());
    let paths: Vec<String> = names
        .iter()
        .map(|name| format!("tinker://r/weights/{name}"))
        .collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let options = ["checkpoint", "delete", "--yes", "--base-url", &server.url];
    let variables = [("TINKER_API_KEY", super::KEY)];
    let arguments = [&options[..], &paths].concat();
    let program = crate::program::Program::start_with(home.path(), &arguments, &variables);
    server.wait_for(names.len());
    program.signal("INT");
    let outcome = program.finish_promptly();
    outcome.failed(
        130,
        &["at least 16 of 20 checkpoints are deleted", "interrupted"],
    );
}

#[test]
fn paths_and_filter_exclude_each_other() {
    let home = tempfile::tempdir().unwrap();
    let server = responder();
    for (arguments, part) in [
        (
            &["tinker://r/weights/step-1", "--run-id", "r"][..],
            "paths and a filter",
        ),
        (&["tinker://r/step-1"], "KIND"),
        (&[], "--run-id"),
        (&["--type", "merged"], "sampler_weights"),
        (&["--pattern", ""], "step-*"),
        (&["--after", "2026-02-30"], "2026-06-01"),
    ] {
        let delete = ["checkpoint", "delete", "--yes"];
        let outcome = manage(home.path(), &server.url, &[&delete, arguments].concat());
        outcome.failed(2, &[part]);
    }
    assert_eq!(server.requests(), [""; 0]);
}

#[cfg(target_os = "linux")]
#[test]
fn checkpoints_are_shown_with_sizes_and_deleted_after_a_yes() {
    use super::terminal::on_a_terminal;

    let home = tempfile::tempdir().unwrap();
    for (answer, code, count) in [("yes\n", 0, 2), ("\n", 1, 0), ("no\n", 1, 0)] {
        let server = responder();
        let arguments = [
            "checkpoint",
            "delete",
            "--base-url",
            &server.url,
            "tinker://r/weights/step-1",
            "tinker://r/sampler_weights/step-1",
            "tinker://r/weights/step-1",
        ];
        let (status, output) = on_a_terminal(home.path(), &arguments, answer);
        for part in [
            "Delete 2 checkpoints (2.0 KB) on http://127.0.0.1",
            "weights/step-1",
            "1.0 KB",
        ] {
            assert!(output.contains(part), "no {part:?} in\n{output}");
        }
        assert_eq!(status, Some(code), "{output}");
        assert_eq!(deleted(&server).len(), count, "{output}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn checkpoint_without_a_known_size_is_marked_in_the_question() {
    let home = tempfile::tempdir().unwrap();
    let server = responder();
    let gone = "tinker://r/weights/gone";
    let arguments = ["checkpoint", "delete", gone, "--base-url", &server.url];
    let (status, output) = super::terminal::on_a_terminal(home.path(), &arguments, "y\n");
    for part in [
        "not found",
        "Delete 1 checkpoint (at least 0 B)",
        "next step:",
    ] {
        assert!(output.contains(part), "no {part:?} in\n{output}");
    }
    assert_eq!(status, Some(3), "{output}");
}
