//! `tinkers serve --faults --journal`: injected faults, counters, the journal, and invalid scripts.

use std::fs;

use serde_json::{Value, json};

use crate::program::{Program, run};
use crate::serve::fetch;

const SCRIPT: &str = "
[[rule]]
name = 'health'
on = '/api/v1/healthz'
nth = 2
times = 2
fault = 'rate_limited'
retry_after_s = 0.5

[[rule]]
on = 'rest'
fault = 'cut_body'

[[rule]]
on = 'sample'
fault = 'gone'
";

fn body(response: &str) -> Value {
    let (_, body) = response.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}

#[cfg(unix)]
#[test]
fn serve_injects_scripted_faults_and_writes_them_to_the_journal() {
    let home = tempfile::tempdir().unwrap();
    let script = home.path().join("faults.toml");
    let journal = home.path().join("journal.jsonl");
    fs::write(&script, SCRIPT).unwrap();
    fs::write(&journal, "of an earlier run\n").unwrap();
    let arguments = [
        "serve",
        "--port",
        "0",
        "--engine",
        "scripted",
        "--faults",
        script.to_str().unwrap(),
        "--journal",
        journal.to_str().unwrap(),
    ];
    let mut server = Program::start(home.path(), &arguments);
    let url = server.line("listening on ");
    let statuses = [(); 4].map(|()| fetch(&url, "/api/v1/healthz")[9..12].to_owned());
    assert_eq!(statuses, ["200", "429", "429", "200"]);
    let cut = fetch(&url, "/api/v1/sessions?key=tml-secret");
    assert!(
        cut.starts_with("HTTP/1.1 200") && !cut.ends_with('}'),
        "{cut}"
    );
    let expected = [("health", 4, 2), ("", 1, 1), ("", 0, 0)];
    let counts = body(&fetch(&url, "/faults/counts"));
    for (i, (name, matched, struck)) in expected.into_iter().enumerate() {
        let name = (!name.is_empty()).then_some(name);
        let rule = json!({ "rule": i + 1, "name": name, "matched": matched, "struck": struck });
        assert_eq!(counts["rules"][i], rule);
    }
    server.signal("TERM");
    let outcome = server.finish();
    outcome.succeeded();
    assert_eq!(
        outcome.stdout,
        format!(
            "listening on {url}\n\
             rule 1 (health): applied to 2 of 4 matching requests\n\
             rule 2: applied to 1 of 1 matching requests\n\
             rule 3: applied to 0 of 0 matching requests\n"
        )
    );
    let written = fs::read_to_string(&journal).unwrap();
    assert!(!written.contains("secret"), "{written}");
    let lines: Vec<Value> = written
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let fields: Vec<_> = lines
        .iter()
        .map(|line| json!([line["number"], line["route"], line["status"], line["rule"]]))
        .collect();
    let health = "/api/v1/healthz";
    assert_eq!(
        fields,
        [
            json!([1, health, 200, null]),
            json!([2, health, 429, 1]),
            json!([3, health, 429, 1]),
            json!([4, health, 200, null]),
            json!([5, "/api/v1/sessions", null, 2]),
            json!([6, "/faults/counts", 200, null]),
        ]
    );
    assert!(
        lines
            .iter()
            .all(|line| line["at_s"].is_f64() && line["took_s"].is_f64())
    );
}

#[cfg(unix)]
#[test]
fn journal_file_on_a_full_disk_ends_with_a_complete_line() {
    let home = tempfile::tempdir().unwrap();
    let journal = home.path().join("journal.jsonl");
    let path = journal.to_str().unwrap();
    let arguments = [
        "serve",
        "--port",
        "0",
        "--engine",
        "scripted",
        "--journal",
        path,
    ];
    let mut server = Program::start_with_file_size_limit(home.path(), &arguments, 1);
    let url = server.line("listening on ");
    for _ in 0..20 {
        assert!(fetch(&url, "/api/v1/healthz").starts_with("HTTP/1.1 200"));
    }
    server.signal("TERM");
    let outcome = server.finish();
    let failures = outcome
        .succeeded()
        .stderr
        .matches("cannot write the journal");
    assert_eq!(failures.count(), 1, "{outcome:#?}");
    let written = fs::read_to_string(&journal).unwrap();
    assert!(
        written.ends_with("}\n") && written.len() <= 1024,
        "{written:?}"
    );
    assert!(
        written
            .lines()
            .all(|line| serde_json::from_str::<Value>(line).is_ok()),
        "{written}"
    );
}

#[test]
fn error_names_the_invalid_fault_script_or_journal() {
    let home = tempfile::tempdir().unwrap();
    let script = home.path().join("faults.toml");
    let path = script.to_str().unwrap();
    let serve = |option: &str, path: &str| {
        let arguments = ["serve", "--port", "0", "--engine", "scripted", option, path];
        run(home.path(), &arguments)
    };
    serve("--faults", path).failed(1, &["cannot use the fault script", "faults.toml"]);
    fs::write(
        &script,
        "[[rule]]\non = 'sample'\nfault = 'gone'\nprobabilty = 1\n",
    )
    .unwrap();
    serve("--faults", path).failed(
        1,
        &[
            "faults.toml",
            "line 4, column 1: rule 1, field probabilty: expected no such field",
            "did you mean probability?",
        ],
    );
    fs::write(&script, "[[rule]]\non = 'sample'\nfault = \n").unwrap();
    let outcome = serve("--faults", path);
    outcome.failed(1, &["cannot use the fault script", "not TOML"]);
    // The invalid line is quoted on a separate line.
    let shown = |line: &str| line.trim_start().starts_with("3 | fault =");
    assert!(outcome.stderr.lines().any(shown), "{outcome:#?}");
    let nowhere = home.path().join("nowhere").join("journal");
    serve("--journal", nowhere.to_str().unwrap())
        .failed(1, &["cannot write the journal", "nowhere"]);
}
