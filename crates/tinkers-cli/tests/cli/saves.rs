//! Saves of `tinkers serve` at the edges: a signal while one is written, a disk without room.
#![cfg(unix)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::program::Program;

const BASE: &str = "tinkers/tiny";

/// A server with the built-in model that keeps its data below `home`.
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
        let address = self.url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        let body = body.to_string();
        let head = format!(
            "POST /api/v1/{path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        serde_json::from_str(body).unwrap()
    }

    /// The result of a promise.
    fn result(&self, promise: &Value) -> Value {
        loop {
            let body = json!({ "request_id": promise["request_id"] });
            let answer = self.post("retrieve_future", &body);
            if answer["type"] != "try_again" {
                return answer;
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

/// Files and directories, all the way down; the lock is not among them.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let inner = files(&path);
            all.push(path);
            all.extend(inner);
        } else if path.file_name().is_some_and(|name| name != "lock") {
            all.push(path);
        }
    }
    all
}

fn named(files: &[PathBuf], end: &str) -> usize {
    files
        .iter()
        .filter(|file| file.to_string_lossy().ends_with(end))
        .count()
}

#[test]
fn a_save_that_has_begun_is_finished_on_a_signal() {
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
        let left = files(home.path());
        assert_eq!(
            (named(&left, "/n.safetensors"), named(&left, ".tmp")),
            (1, 0),
            "{left:?}"
        );
    }
}

/// Whether SIGHUP is ignored here, and so in every program that is started from here.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_none_or(|mask| mask & 1 == 1)
}

#[test]
fn server_under_nohup_goes_on_after_a_hangup() {
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
fn a_save_without_room_fails_with_the_reason_and_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let arguments = ["serve", "--port", "0"];
    let server = Server::new(Program::start_with_small_files(
        home.path(),
        &arguments,
        1024,
    ));
    let (large, small) = (server.model(64), server.model(1));
    let before = files(home.path());
    let failed = server.result(&server.save(&large, 1, "n"));
    let reason = failed.to_string();
    assert!(reason.contains("File too large"), "{reason}");
    assert_eq!(files(home.path()), before);
    // The name is free, and the server goes on.
    let again = server.result(&server.save(&large, 2, "n"));
    assert!(again.to_string().contains("File too large"), "{again}");
    let saved = server.result(&server.save(&small, 1, "n"));
    assert!(saved["path"].as_str().is_some(), "{saved}");
    assert_eq!(named(&files(home.path()), "/n.safetensors"), 1);
    server.program.signal("TERM");
    server.program.finish().succeeded();
}
