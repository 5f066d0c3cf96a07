//! The management commands against `tinkers serve`, with the keys of several owners.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use tinkers::wire::{rfc3339, since_epoch};

use crate::program::{Outcome, Program};

const KEYS: &str = r#"
[[key]]
key = "tml-hush-ann"
owner = "ann"

[[key]]
key = "tml-hush-reader"
owner = "ann"
permissions = ["read"]

[[key]]
key = "tml-hush-sampler"
owner = "ann"
permissions = ["sample"]

[[key]]
key = "tml-hush-bob"
owner = "bob"
"#;

/// The number of tokens of a sequence. The only training step has one sequence.
const STEP_TOKENS: u64 = 32;

/// The number of passes with which the quickstart measures the held-out loss: 32 sequences before the training, and 32 after it.
const FORWARD_PASSES: u64 = 64;

/// A server with one run of Ann, which has checkpoints.
struct Served {
    home: tempfile::TempDir,
    url: String,
    /// The time at which the first checkpoint was saved.
    saved: String,
    /// What `tinkers quickstart` printed.
    trained: Value,
    _program: Program,
}

impl Served {
    fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let keys = home.path().join("keys.toml");
        std::fs::write(&keys, KEYS).unwrap();
        let serve = ["serve", "--port", "0", "--keys", keys.to_str().unwrap()];
        let mut program = Program::start(home.path(), &serve);
        let url = program.line("listening on ");
        let mut served = Self {
            home,
            url,
            saved: String::new(),
            trained: Value::Null,
            _program: program,
        };
        let tokens = STEP_TOKENS.to_string();
        let small = ["--steps", "1", "--batch", "1", "--seq-len", &tokens];
        served.trained = served.json(&[&["quickstart", "--rank", "1"], &small[..]].concat());
        let path = served.trained["checkpoint"].as_str().unwrap();
        let checkpoint = served.json(&["checkpoint", "info", path]);
        served.saved = checkpoint["time"].as_str().unwrap().to_owned();
        served
    }

    /// Returns the start and the end of a period of full hours that contains the training. It begins an hour before the hour of the first
    /// checkpoint, since the training may have begun there.
    fn period(&self) -> [String; 2] {
        const HOUR: u64 = 3600;
        let saved = since_epoch(&self.saved).unwrap().as_secs() / HOUR;
        let hour = |number: u64| rfc3339(Duration::from_secs(number * HOUR));
        [hour(saved - 1), hour(saved + 24)]
    }

    /// Returns the calendar day on which the first checkpoint was saved.
    fn day(&self) -> &str {
        &self.saved[..10]
    }

    /// Returns the events and paths in Ann's audit log, in the order of the log.
    fn audit(&self) -> Vec<(String, String)> {
        let of = |options: &[&str]| {
            let log = [&["audit", "--type", "checkpoints"], options].concat();
            self.json(&log)["entries"].as_array().unwrap().clone()
        };
        let mut entries = of(&["--day", self.day()]);
        let today = of(&[]);
        // The day may have ended since.
        if today != entries {
            entries.extend(today);
        }
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let entries = entries.iter();
        entries
            .map(|entry| {
                let path = &entry["event_details"]["tinker_path"];
                (text(&entry["event"]), text(path))
            })
            .collect()
    }

    /// Returns the id of the run, and that of its session.
    fn run_and_session(&self) -> (String, String) {
        let path = self.trained["checkpoint"].as_str().unwrap();
        let run = path.strip_prefix("tinker://").unwrap();
        let run = run.split('/').next().unwrap();
        let session = run.split(':').next().unwrap();
        (run.to_owned(), session.to_owned())
    }

    fn run(&self, key: &str, arguments: &[&str]) -> Outcome {
        let arguments = [arguments, &["--base-url", &self.url]].concat();
        super::with_key(self.home.path(), key, &arguments)
    }

    /// Runs a command of Ann, and returns its JSON.
    fn json(&self, arguments: &[&str]) -> Value {
        let outcome = self.run("tml-hush-ann", &[arguments, &["--json"]].concat());
        serde_json::from_str(&outcome.succeeded().stdout).unwrap()
    }
}

#[test]
fn checkpoints_are_listed_changed_and_deleted_on_a_server() {
    let served = Served::start();
    let models = served.json(&["model", "list", "TINY"]);
    assert_eq!(models["models"][0]["model_name"], "tinkers/tiny");
    let runs = served.json(&["run", "list"]);
    let id = runs["runs"][0]["training_run_id"].as_str().unwrap();
    let run = served.json(&["run", "info", id]);
    assert_eq!(
        (&run["lora_rank"], &run["base_model"]),
        (&1.into(), &"tinkers/tiny".into())
    );
    let session = id.split(':').next().unwrap();
    let sessions = served.json(&["session", "list"]);
    assert_eq!(sessions["sessions"][0]["session_id"], session);
    let info = served.json(&["session", "info", session]);
    assert_eq!(info["training_run_ids"][0], id);

    let of_run = ["checkpoint", "list", "--run-id", id];
    let checkpoints = served.json(&of_run);
    assert_eq!(checkpoints["run_id"], id);
    let checkpoints = checkpoints["checkpoints"].as_array().unwrap();
    assert!(!checkpoints.is_empty());
    let path = checkpoints[0]["tinker_path"].as_str().unwrap();
    let info = served.json(&["checkpoint", "info", path]);
    assert_eq!(
        (&info["public"], &info["is_lora"]),
        (&false.into(), &true.into())
    );
    served.json(&["checkpoint", "publish", path]);
    served.json(&["checkpoint", "set-ttl", path, "--ttl", "7200"]);
    let info = served.json(&["checkpoint", "info", path]);
    assert_eq!(info["public"], true);
    assert!(info["expires_at"].is_string(), "{info}");
    served.json(&["checkpoint", "unpublish", path]);
    served.json(&["checkpoint", "set-ttl", path, "--remove"]);
    let info = served.json(&["checkpoint", "info", path]);
    assert_eq!(
        (&info["public"], &info["expires_at"]),
        (&false.into(), &Value::Null)
    );

    let delete = ["checkpoint", "delete", "--run-id", id, "--yes"];
    let before = served.audit();
    let deleted = served.json(&delete);
    assert_eq!(deleted["deleted_count"], checkpoints.len());
    let mut added = served.audit().split_off(before.len());
    added.sort();
    let mut expected: Vec<_> = checkpoints
        .iter()
        .map(|one| one["tinker_path"].as_str().unwrap().to_owned())
        .map(|path| ("checkpoint_deleted".to_owned(), path))
        .collect();
    expected.sort();
    assert_eq!(added, expected);
    assert_eq!(
        served.json(&of_run)["checkpoints"],
        Value::Array(Vec::new())
    );
}

/// Returns the total length of the texts of a list. The tokens of the model are bytes.
fn length(texts: &Value) -> u64 {
    let texts = texts.as_array().unwrap().iter();
    texts.map(|text| text.as_str().unwrap().len() as u64).sum()
}

#[test]
fn usage_storage_and_audit_log_of_a_server_have_its_real_values() {
    let served = Served::start();
    let (_, session) = served.run_and_session();
    let list = served.json(&["checkpoint", "list", "--all"]);
    let checkpoints = list["checkpoints"].as_array().unwrap();
    assert_eq!(checkpoints.len(), 2);

    let [start, end] = served.period();
    let usage = served.json(&["usage", &start, &end]);
    assert!(usage["sessions"][&session].is_object(), "{usage}");
    let mut amounts = BTreeMap::new();
    for row in usage["data"].as_array().unwrap() {
        assert_eq!(
            (&row["session_id"], &row["user_name"], &row["base_model"]),
            (&json!(session), &json!("ann"), &json!("tinkers/tiny"))
        );
        let info = &row["event_info"];
        let amount = info["token_count"].as_u64().or(info["count"].as_u64());
        // The quickstart may have run in two hours.
        *amounts.entry(info["type"].as_str().unwrap()).or_insert(0) += amount.unwrap();
    }
    let trained = &served.trained;
    let sampled = length(&trained["samples_before"]) + length(&trained["samples_after"]);
    assert_eq!(amounts["checkpoint"], 2);
    assert_eq!(amounts["sampling_prefill"], 2 * length(&trained["prompts"]));
    assert_eq!(amounts["sampling_sample"], sampled);
    assert_eq!(amounts["training"], (FORWARD_PASSES + 1) * STEP_TOKENS);

    let storage = served.json(&["storage"]);
    let sizes = checkpoints
        .iter()
        .map(|one| one["size_bytes"].as_u64().unwrap());
    let size: u64 = sizes.sum();
    let [row] = &storage["data"].as_array().unwrap()[..] else {
        panic!("{storage}");
    };
    assert_eq!(
        (
            &row["checkpoint_count"],
            &row["size_bytes"],
            &row["user_name"]
        ),
        (&json!(2), &json!(size), &json!("ann"))
    );
    let of_project = served.json(&["storage", "--project-id", "another"]);
    assert_eq!(of_project["data"], json!([]));

    let saved = ["checkpoint", "sampler_checkpoint"].map(|name| {
        let path = trained[name].as_str().unwrap().to_owned();
        ("checkpoint_saved".to_owned(), path)
    });
    let found: BTreeSet<_> = served.audit().into_iter().collect();
    assert_eq!(found, BTreeSet::from(saved.clone()));
    // The server has the path in the details only, and the table has it in its column.
    let table = served.run("tml-hush-ann", &["audit", "--day", served.day()]);
    for row in table.succeeded().stdout.lines().skip(1) {
        let is_path = saved
            .iter()
            .any(|(_, path)| row.ends_with(&format!(" {path}")));
        assert!(is_path, "{row}");
    }
}

#[test]
fn trace_of_a_session_is_written_to_a_file_or_its_address_printed() {
    let served = Served::start();
    let (run, session) = served.run_and_session();
    let address = served.json(&["session", "trace", &session, "--url-only"]);
    assert_eq!(address["session_id"], session);
    let url = address["url"].as_str().unwrap();
    let server = served.url.trim_end_matches('/');
    assert!(url.starts_with(&format!("{server}/traces/")), "{url}");

    let file = served.home.path().join("trace.json");
    let name = file.to_str().unwrap();
    let written = served.json(&["session", "trace", &session, "--output", name]);
    let trace = std::fs::read(&file).unwrap();
    assert_eq!(
        written,
        json!({"session_id": session, "destination": name, "file_size_bytes": trace.len()})
    );
    let trace: Value = serde_json::from_slice(&trace).unwrap();
    let events = trace["traceEvents"].as_array().unwrap().iter();
    let mut counts = BTreeMap::new();
    for event in events.filter(|event| event["ph"] == "b" && event["args"]["of"] == run) {
        assert_eq!(event["args"]["failed"], false, "{event}");
        *counts
            .entry(event["name"].as_str().unwrap())
            .or_insert(0_u64) += 1;
    }
    // Both kinds of saves have one name in traces.
    let expected = [
        ("create_model", 1),
        ("forward", FORWARD_PASSES),
        ("forward_backward", 1),
        ("optim_step", 1),
        ("save_weights", 2),
    ];
    assert_eq!(counts, BTreeMap::from(expected));
}

#[test]
fn keys_without_permission_or_ownership_are_refused_by_a_server() {
    let served = Served::start();
    let [start, end] = served.period();
    let file = served.home.path().join("trace.json");
    let file_name = file.to_str().unwrap();
    let list = served.json(&["checkpoint", "list"]);
    let path = list["checkpoints"][0]["tinker_path"].as_str().unwrap();
    let runs = served.json(&["run", "list"]);
    let run = runs["runs"][0]["training_run_id"].as_str().unwrap();
    let session = run.split(':').next().unwrap();
    let reads = [
        &["run", "list"][..],
        &["run", "info", run],
        &["checkpoint", "list"],
        &["checkpoint", "info", path],
        &["session", "list"],
        &["session", "info", session],
        &["session", "trace", session, "--url-only"],
        &["session", "trace", session, "--output", file_name],
        &["usage", &start, &end],
        &["storage"],
        &["audit"],
    ];
    let changes = [
        &["checkpoint", "publish", path][..],
        &["checkpoint", "unpublish", path],
        &["checkpoint", "set-ttl", path, "--remove"],
        &["checkpoint", "delete", path, "--yes"],
    ];
    for arguments in reads {
        let denied = served.run("tml-hush-sampler", arguments);
        denied.failed(4, &["no permission", "tinkers auth whoami"]);
        let unknown = served.run("tml-hush-unknown", arguments);
        unknown.failed(4, &["tinkers auth login"]);
    }
    for arguments in changes {
        let denied = served.run("tml-hush-reader", arguments);
        assert_eq!(denied.code, Some(4), "{denied:#?}");
        assert!(denied.stderr.contains("no permission"), "{denied:#?}");
        // What belongs to another owner does not exist.
        let foreign = served.run("tml-hush-bob", arguments);
        assert_eq!(foreign.code, Some(3), "{foreign:#?}");
    }
    for arguments in [
        &["run", "info", run][..],
        &["session", "info", session],
        &["session", "trace", session, "--url-only"],
        &["session", "trace", session, "--output", file_name],
    ] {
        let foreign = served.run("tml-hush-bob", arguments);
        foreign.failed(3, &["next step: `tinkers"]);
    }
    assert!(!file.exists(), "no trace was written");
    for (arguments, rows_of) in [
        (&["usage", &start, &end][..], "data"),
        (&["storage"], "data"),
        (&["audit", "--day", served.day()], "entries"),
    ] {
        let arguments = [arguments, &["--json"]].concat();
        let rows = |key| {
            let outcome = served.run(key, &arguments);
            let found: Value = serde_json::from_str(&outcome.succeeded().stdout).unwrap();
            found[rows_of].as_array().unwrap().len()
        };
        // A key that may only read sees what belongs to its owner.
        assert!(rows("tml-hush-reader") > 0, "{arguments:?}");
        assert_eq!(rows("tml-hush-bob"), 0, "{arguments:?}");
    }
    let left = served.json(&["checkpoint", "list", "--all"]);
    assert_eq!(left, list, "nothing was changed");
}
