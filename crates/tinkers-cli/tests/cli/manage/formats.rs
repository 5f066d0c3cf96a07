//! Bounds of lists, files of CSV, and colour.

use serde_json::json;

use super::manage;
use super::responder::{Answer, Responder};

/// Starts a server with runs `r0` to `r24`, on one page.
fn responder() -> Responder {
    let runs: Vec<_> = (0..25)
        .map(|number| json!({"training_run_id": format!("r{number}"), "base_model": "m"}))
        .collect();
    let list = json!({
        "training_runs": runs,
        "cursor": {"offset": 0, "limit": 1000, "total_count": 25},
    });
    Responder::start(vec![Answer::ok("GET /training_runs", list)])
}

#[test]
fn lists_are_bounded_unless_all_items_are_asked_for() {
    let home = tempfile::tempdir().unwrap();
    let server = responder();
    for (options, count) in [
        (&[][..], 20),
        (&["--limit", "3"], 3),
        (&["--limit", "25"], 25),
        (&["--limit", "0"], 25),
        (&["--all"], 25),
    ] {
        let arguments = [&["run", "list", "--json"], options].concat();
        let outcome = manage(home.path(), &server.url, &arguments);
        let outcome = outcome.succeeded();
        let list: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
        let runs = list["runs"].as_array().unwrap();
        assert_eq!(runs.len(), count, "{options:?}");
        assert_eq!(
            runs[count - 1]["training_run_id"],
            format!("r{}", count - 1)
        );
        let has_note = outcome.stderr.contains("--all");
        assert_eq!(has_note, count < 25, "{outcome:#?}");
    }
}

#[test]
fn pages_are_as_large_as_those_of_the_official_program() {
    let home = tempfile::tempdir().unwrap();
    for (noun, request, list) in [
        (
            "run",
            "GET /training_runs?limit=100&offset=0&access_scope=owned",
            "training_runs",
        ),
        (
            "session",
            "GET /sessions?limit=100&offset=0&access_scope=owned",
            "sessions",
        ),
        (
            "checkpoint",
            "GET /checkpoints?limit=1000&offset=0",
            "checkpoints",
        ),
    ] {
        // The responder has no other request.
        let server = Responder::start(vec![Answer::ok(request, json!({ list: [] }))]);
        for options in [&["--all"][..], &["--limit", "5000"]] {
            let arguments = [&[noun, "list"], options].concat();
            manage(home.path(), &server.url, &arguments).succeeded();
        }
        assert_eq!(server.requests(), [request, request]);
    }
}

#[test]
fn only_tables_of_whole_lists_are_bounded_by_default() {
    let home = tempfile::tempdir().unwrap();
    let models: Vec<_> = (0..150).map(|number| format!("m{number}")).collect();
    let entries: Vec<_> = (0..150)
        .map(|number| json!({"timestamp": format!("t{number}"), "event": "checkpoint_saved"}))
        .collect();
    let server = Responder::start(vec![
        Answer::ok(
            "GET /get_server_capabilities",
            json!({ "supported_models": models }),
        ),
        Answer::ok("GET /audit", json!({ "entries": entries })),
    ]);
    // The audit log begins with the earliest entry, and its newest entries are shown. Of the models, the first are.
    for (command, name, shown, few) in [
        (&["model", "list"][..], "m", 0..100, 0..3),
        (&["audit"], "t", 50..150, 147..150),
    ] {
        for (options, rows) in [
            (&[][..], shown),
            (&["--all"], 0..150),
            (&["-f", "csv"], 0..150),
            (&["-f", "csv", "--all"], 0..150),
            (&["-f", "csv", "--limit", "0"], 0..150),
            (&["-f", "csv", "--limit", "3"], few.clone()),
            (&["--limit", "3"], few.clone()),
        ] {
            let arguments = [command, options].concat();
            let outcome = manage(home.path(), &server.url, &arguments);
            let lines = outcome.succeeded().stdout.lines().skip(1);
            let found: Vec<&str> = lines
                .filter_map(|line| line.split([' ', ',']).next())
                .collect();
            let expected: Vec<_> = rows
                .clone()
                .map(|number| format!("{name}{number}"))
                .collect();
            assert_eq!(found, expected, "{arguments:?}");
            let has_note = outcome.stderr.contains("--all");
            assert_eq!(has_note, rows.len() < 150, "{outcome:#?}");
        }
        let json = manage(home.path(), &server.url, &[command, &["--json"]].concat());
        let json: serde_json::Value = serde_json::from_str(&json.succeeded().stdout).unwrap();
        let list = json["models"].as_array().or(json["entries"].as_array());
        assert_eq!(list.unwrap().len(), 150, "{command:?}");
    }
}

#[test]
fn empty_lists_are_valid_in_every_format() {
    let home = tempfile::tempdir().unwrap();
    let answer = json!({"checkpoints": []});
    let server = Responder::start(vec![Answer::ok("GET /checkpoints", answer)]);
    for (format, expected) in [
        ("table", "no checkpoints\n"),
        ("json", "{\n  \"checkpoints\": []\n}\n"),
        (
            "csv",
            "checkpoint_id,checkpoint_type,time,tinker_path,size_bytes,public,user_metadata,expires_at,base_model\n",
        ),
    ] {
        let arguments = ["checkpoint", "list", "--format", format];
        let outcome = manage(home.path(), &server.url, &arguments);
        assert_eq!(outcome.succeeded().stdout, expected);
    }
}

#[test]
fn usage_is_written_to_files_as_csv() {
    let home = tempfile::tempdir().unwrap();
    let event = json!({"bucket_start": "a", "bucket_end": "b", "event_info": {"type": "checkpoint", "count": 2}});
    let events: Vec<_> = std::iter::repeat_n(event, 150).collect();
    let usage = json!({"data": events, "sessions": {"s": {"user_metadata": {"k": "v"}}, "t": {}}});
    let server = Responder::start(vec![Answer::ok("GET /billing/usage/events", usage)]);
    let file = home.path().join("usage.csv");
    let arguments = [
        "billing",
        "usage",
        "2026-06-01",
        "2026-06-02",
        "--csv",
        file.to_str().unwrap(),
        "--sessions-csv",
        "-",
    ];
    let outcome = manage(home.path(), &server.url, &arguments);
    assert_eq!(
        outcome.succeeded().stdout,
        "session_id,user_metadata\ns,\"{\"\"k\"\":\"\"v\"\"}\"\nt,\n"
    );
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().count(), 151, "the file has all rows");
    // The table is bounded, and the formats for programs are not.
    let period = ["usage", "2026-06-01", "2026-06-02"];
    let table = manage(home.path(), &server.url, &period);
    assert_eq!(table.succeeded().stdout.lines().count(), 101);
    assert!(table.stderr.contains("--all"), "{table:#?}");
    let csv = manage(
        home.path(),
        &server.url,
        &[&period[..], &["-f", "csv"]].concat(),
    );
    assert_eq!(csv.succeeded().stdout.lines().count(), 151);
    let both = [&period[..], &["--csv", "-", "--sessions-csv", "-"]].concat();
    manage(home.path(), &server.url, &both).failed(2, &["--csv", "--sessions-csv"]);
    let nowhere = home.path().join("nowhere").join("x.csv");
    let nowhere = [&period[..], &["--csv", nowhere.to_str().unwrap()]].concat();
    manage(home.path(), &server.url, &nowhere).failed(1, &["cannot write", "nowhere"]);
}

#[test]
fn model_filter_without_a_match_exits_with_3() {
    let home = tempfile::tempdir().unwrap();
    let models = json!({"supported_models": ["org/model"]});
    let server = Responder::start(vec![Answer::ok("GET /get_server_capabilities", models)]);
    let outcome = manage(home.path(), &server.url, &["model", "list", "other"]);
    outcome.failed(3, &["other", "tinkers model list"]);
}

#[test]
fn rate_limited_and_failing_servers_exit_with_5() {
    let home = tempfile::tempdir().unwrap();
    for (status, headers, part) in [
        (429, "retry-after: 3600\r\n", "run the command again later"),
        (503, "x-should-retry: false\r\n", "tinkers doctor"),
    ] {
        let answer = Answer::new("GET /sessions/s", status, r#"{"detail": "busy"}"#);
        let server = Responder::start(vec![answer.with_headers(headers)]);
        let outcome = manage(home.path(), &server.url, &["session", "info", "s"]);
        outcome.failed(5, &[part]);
        assert_eq!(server.requests().len(), 1, "{status}");
    }
}

#[test]
fn format_before_other_commands_is_json_or_an_error() {
    let home = tempfile::tempdir().unwrap();
    let (_server, url) = crate::bench::serve(home.path(), &[]);
    let json = ["--format", "json", "doctor", "--base-url", &url];
    let outcome = crate::program::run(home.path(), &json);
    let findings: serde_json::Value = serde_json::from_str(&outcome.succeeded().stdout).unwrap();
    assert_eq!(findings["server"], url.as_str(), "{findings}");
    for command in [&["doctor"][..], &["quickstart"], &["bench", "sample"]] {
        let csv = [&["-f", "csv"], command, &["--base-url", &url]].concat();
        crate::program::run(home.path(), &csv).failed(2, &["--format csv"]);
    }
}

#[test]
fn colour_is_used_only_on_a_terminal() {
    let home = tempfile::tempdir().unwrap();
    let server = responder();
    let outcome = manage(home.path(), &server.url, &["run", "list"]);
    assert!(
        !outcome.succeeded().all().contains('\u{1b}'),
        "{outcome:#?}"
    );
    let outcome = manage(home.path(), &server.url, &["run", "info", "gone"]);
    assert!(!outcome.all().contains('\u{1b}'), "{outcome:#?}");
}

#[cfg(target_os = "linux")]
#[test]
fn terminal_shows_a_bold_header_and_whole_paths() {
    let home = tempfile::tempdir().unwrap();
    let path = format!("tinker://{}/weights/a", "r".repeat(150));
    let checkpoint = json!({
        "checkpoint_id": "weights/a", "checkpoint_type": "training", "time": "", "tinker_path": path,
    });
    let answer = json!({"checkpoints": [checkpoint]});
    let server = Responder::start(vec![Answer::ok("GET /checkpoints", answer)]);
    let arguments = ["checkpoint", "list", "--base-url", &server.url];
    let (status, shown) = super::terminal::on_a_terminal(home.path(), &arguments, "");
    assert_eq!(status, Some(0), "{shown}");
    assert!(shown.contains("\u{1b}[1mCheckpoint ID"), "{shown:?}");
    assert!(shown.contains(&path), "the path is not wrapped: {shown}");
    assert!(shown.contains("listing checkpoints"), "{shown:?}");
}

#[test]
fn completions_are_printed_for_each_shell() {
    let home = tempfile::tempdir().unwrap();
    for (shell, part) in [
        ("bash", "complete -F _tinkers"),
        ("zsh", "#compdef tinkers"),
        ("fish", "complete -c tinkers"),
        ("powershell", "Register-ArgumentCompleter"),
        ("elvish", "edit:completion:arg-completer"),
    ] {
        let outcome = crate::program::run(home.path(), &["completions", shell]);
        let script = &outcome.succeeded().stdout;
        assert!(script.contains(part), "{script}");
        assert!(script.contains("set-ttl"), "{script}");
    }
    crate::program::run(home.path(), &["completions", "cmd"]).failed(2, &["powershell"]);
    let version = crate::program::run(home.path(), &["version"]);
    let expected = format!("tinkers {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(version.succeeded().stdout, expected);
}

#[cfg(unix)]
#[test]
fn interrupted_command_exits_with_130() {
    let home = tempfile::tempdir().unwrap();
    // The listener accepts no connection, so the program waits.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let arguments = ["run", "list", "--base-url", &url, "--api-key", "tml-x"];
    let program = crate::program::Program::start(home.path(), &arguments);
    let (_connection, _) = listener.accept().unwrap();
    program.signal("INT");
    let outcome = program.finish_promptly();
    outcome.failed(130, &["interrupted"]);
}

#[test]
fn trace_is_downloaded_without_the_api_key() {
    let home = tempfile::tempdir().unwrap();
    // The responder accepts a request for a signed address only without a key.
    let files = Responder::start(vec![
        Answer::ok("GET /signed/trace?sig=hush-1", "trace"),
        Answer::new("GET /signed/expired?sig=hush-1", 403, "sig=hush-1"),
    ]);
    let trace = |path: &str| {
        let url = format!("{}/signed/{path}?sig=hush-1", files.url);
        let export = json!({"status": "ready", "url": url});
        Responder::start(vec![Answer::ok("GET /sessions/s/trace_export", export)])
    };
    let file = home.path().join("t.pftrace");
    let file = file.to_str().unwrap();
    let command = ["session", "export-trace", "s", "--output", file];
    let log = ["--log", "trace"];
    let server = trace("trace");
    let outcome = manage(
        home.path(),
        &server.url,
        &[&command[..], &["--json"], &log].concat(),
    );
    let written: serde_json::Value = serde_json::from_str(&outcome.succeeded().stdout).unwrap();
    assert_eq!(
        written,
        json!({"session_id": "s", "destination": file, "file_size_bytes": 5})
    );
    assert_eq!(std::fs::read_to_string(file).unwrap(), "trace");
    let outcome = manage(home.path(), &server.url, &command);
    let text = &outcome.succeeded().stdout;
    assert!(text.contains("t.pftrace (5 B)"), "{text}");

    let server = trace("expired");
    let outcome = manage(home.path(), &server.url, &[&command[..], &log].concat());
    outcome.failed(
        1,
        &["cannot download the trace", "403", "request a new one"],
    );
    let nowhere = ["session", "trace", "s", "-o", "/nonexistent/t"];
    let outcome = manage(home.path(), &trace("trace").url, &nowhere);
    outcome.failed(1, &["cannot write the trace", "/nonexistent/t"]);
}

#[test]
fn trace_that_the_server_cannot_build_exits_with_5() {
    let home = tempfile::tempdir().unwrap();
    let export = json!({"status": "failed", "error": "no events"});
    let answer = Answer::ok("GET /sessions/s/trace_export", export);
    let server = Responder::start(vec![answer]);
    let outcome = manage(home.path(), &server.url, &["session", "trace", "s"]);
    outcome.failed(5, &["no events"]);
}
