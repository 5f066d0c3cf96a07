//! Saves of `tinkers serve` during a shutdown and on a full disk.
#![cfg(unix)]

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::program::Program;
use crate::raw_http::request;

const BASE: &str = "tinkers/tiny";

/// A running server with the built-in model.
struct Server {
    program: Program,
    url: String,
}

impl Server {
    fn new(mut program: Program) -> Self {
        let url = program.line("listening on ");
        Self { program, url }
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.call("POST", path, body)
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let address = self.url.strip_prefix("http://").unwrap();
        let (status, response) = request(address, method, path, body).unwrap();
        assert_eq!(status, 200, "{path}: {response}");
        response
    }

    /// Polls for the result of an operation until it is ready.
    fn result(&self, submission: &Value) -> Value {
        loop {
            let body = json!({ "request_id": submission["request_id"] });
            let response = self.post("retrieve_future", &body);
            if response["type"] != "try_again" {
                return response;
            }
        }
    }

    fn model(&self, rank: u32) -> Value {
        let body = json!({ "tags": [], "sdk_version": "0.38.0" });
        let session = self.post("create_session", &body)["session_id"].clone();
        let body = json!({
            "session_id": session, "model_seq_id": 0, "base_model": BASE, "lora_config": { "rank": rank },
        });
        self.result(&self.post("create_model", &body))["model_id"].clone()
    }

    fn save(&self, model: &Value, number: u32, name: &str) -> Value {
        let body = json!({ "model_id": model, "path": name, "seq_id": number });
        self.post("save_weights", &body)
    }
}

/// Returns all files and directories below `dir`, except lock files.
fn list_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let inner = list_files(&path);
            files.push(path);
            files.extend(inner);
        } else if path.file_name().is_some_and(|name| name != "lock") {
            files.push(path);
        }
    }
    files
}

fn count_ending_in(files: &[PathBuf], end: &str) -> usize {
    files
        .iter()
        .filter(|file| file.to_string_lossy().ends_with(end))
        .count()
}

#[test]
fn save_in_progress_completes_before_a_signal_ends_serve() {
    for signal in ["TERM", "INT", "HUP"] {
        if signal == "HUP" && ignores_hangup() {
            continue;
        }
        let home = tempfile::tempdir().unwrap();
        let server = Server::new(Program::start(home.path(), &["serve", "--port", "0"]));
        let model = server.model(512);
        server.save(&model, 1, "n");
        server.program.signal(signal);
        server.program.finish().succeeded();
        let files = list_files(home.path());
        assert_eq!(
            (
                count_ending_in(&files, "/n.safetensors"),
                count_ending_in(&files, ".tmp")
            ),
            (1, 0),
            "{files:?}"
        );
        // The save ended after the last connection, and is logged nevertheless.
        let again = Server::new(Program::start(home.path(), &["serve", "--port", "0"]));
        let listed = again.call("GET", "checkpoints", &json!({}));
        let day = &listed["checkpoints"][0]["time"].as_str().unwrap()[..10];
        let log = again.call("GET", &format!("audit?day={day}"), &json!({}));
        assert_eq!(log["entries"][0]["event"], "checkpoint_saved", "{log}");
    }
}

/// Returns whether this process ignores SIGHUP. Child processes inherit this.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_none_or(|mask| mask & 1 == 1)
}

#[test]
fn server_under_nohup_ignores_sighup() {
    let home = tempfile::tempdir().unwrap();
    let arguments = ["serve", "--port", "0"];
    let server = Server::new(Program::start_under_nohup(home.path(), &arguments));
    server.program.signal("HUP");
    let model = server.model(1);
    let saved = server.result(&server.save(&model, 1, "n"));
    assert!(saved["path"].as_str().is_some(), "{saved}");
    server.program.signal("TERM");
    server.program.finish().succeeded();
}

#[test]
fn save_on_a_full_disk_fails_and_leaves_no_files() {
    let home = tempfile::tempdir().unwrap();
    let arguments = ["serve", "--port", "0"];
    let server = Server::new(Program::start_with_file_size_limit(
        home.path(),
        &arguments,
        1500,
    ));
    let (large, small) = (server.model(64), server.model(1));
    let before = list_files(home.path());
    let failed = server.result(&server.save(&large, 1, "n"));
    let reason = failed.to_string();
    assert!(reason.contains("File too large"), "{reason}");
    assert_eq!(list_files(home.path()), before);
    // The failed save did not use up the name, and smaller saves succeed.
    let again = server.result(&server.save(&large, 2, "n"));
    assert!(again.to_string().contains("File too large"), "{again}");
    let saved = server.result(&server.save(&small, 1, "n"));
    assert!(saved["path"].as_str().is_some(), "{saved}");
    assert_eq!(
        count_ending_in(&list_files(home.path()), "/n.safetensors"),
        1
    );
    server.program.signal("TERM");
    server.program.finish().succeeded();
}
