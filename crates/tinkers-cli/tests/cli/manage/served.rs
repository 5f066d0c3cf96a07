//! The management commands against `tinkers serve`, with the keys of several owners.

use serde_json::Value;

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

/// A server with one run of Ann, which has checkpoints.
struct Served {
    home: tempfile::TempDir,
    url: String,
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
        let served = Self {
            home,
            url,
            _program: program,
        };
        let small = ["--steps", "1", "--batch", "1", "--seq-len", "32", "--json"];
        let train = [&["quickstart", "--rank", "1"], &small[..]].concat();
        served.run("tml-hush-ann", &train).succeeded();
        served
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
    let deleted = served.json(&delete);
    assert_eq!(deleted["deleted_count"], checkpoints.len());
    assert_eq!(
        served.json(&of_run)["checkpoints"],
        Value::Array(Vec::new())
    );
}

#[test]
fn keys_without_permission_or_ownership_are_refused_by_a_server() {
    let served = Served::start();
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
    for arguments in [&["run", "info", run][..], &["session", "info", session]] {
        let foreign = served.run("tml-hush-bob", arguments);
        foreign.failed(3, &["next step: `tinkers"]);
    }
    let left = served.json(&["checkpoint", "list", "--all"]);
    assert_eq!(left, list, "nothing was changed");
}
