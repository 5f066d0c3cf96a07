//! `tinkers serve --keys`: owners over a restart, permissions, and invalid files.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use serde_json::{Value, json};

use crate::program::{Outcome, Program, run};
use crate::quickstart::object;

const ALICE: &str = "tml-hush-alice";
const BOB: &str = "tml-hush-bob";
const KEYS: &str = r#"
[[key]]
key_env = "ALICE_KEY"
owner = "alice"

[[key]]
key = "tml-hush-bob"
owner = "bob"
organization = "example"
permissions = ["sample", "read"]
"#;

/// Starts a server with the API keys of [`KEYS`]. Returns the running program and its URL.
fn serve(home: &Path, options: &[&str]) -> (Program, String) {
    let file = home.join("keys.toml");
    std::fs::write(&file, KEYS).unwrap();
    let arguments = ["serve", "--port", "0", "--keys", file.to_str().unwrap()];
    let arguments = [&arguments[..], options].concat();
    let mut server = Program::start_with(home, &arguments, &[("ALICE_KEY", ALICE)]);
    let url = server.line("listening on ");
    (server, url)
}

/// Sends a request with an API key. Returns the status and the body of the response.
fn send(url: &str, method: &str, path: &str, key: &str, body: &Value) -> (u16, Value) {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let body = body.to_string();
    let request = format!(
        "{method} /api/v1/{path} HTTP/1.1\r\nhost: {address}\r\nx-api-key: {key}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let status = head[9..12].parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_default())
}

/// Sends a request of Alice and returns the body of the response, or the result if the request is accepted.
fn call(url: &str, path: &str, body: &Value) -> Value {
    let (status, mut response) = send(url, "POST", path, ALICE, body);
    assert_eq!(status, 200, "{path}: {response}");
    while let Some(id) = response["request_id"].as_str() {
        let poll = json!({ "request_id": id });
        response = send(url, "POST", "retrieve_future", ALICE, &poll).1;
    }
    response
}

#[cfg(unix)]
#[test]
fn checkpoints_keep_their_owners_over_a_restart_of_serve() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let options = ["--data-dir", data.to_str().unwrap(), "--log", "trace"];
    let (server, url) = serve(home.path(), &options);
    let session = call(
        &url,
        "create_session",
        &json!({ "tags": [], "sdk_version": "0.38.0" }),
    );
    let model = call(
        &url,
        "create_model",
        &json!({
            "session_id": session["session_id"], "model_seq_id": 0, "base_model": "tinkers/tiny",
            "lora_config": { "rank": 2 },
        }),
    );
    let save = json!({ "model_id": model["model_id"], "path": "a", "seq_id": 1 });
    let path = call(&url, "save_weights", &save)["path"].clone();
    let denied = send(&url, "POST", "create_model", BOB, &json!({}));
    assert_eq!(denied.0, 403, "{denied:?}");
    let reason = denied.1["detail"].as_str().unwrap();
    assert!(reason.contains("permission \"train\""), "{reason}");
    server.signal("TERM");
    let outcome = server.finish();
    assert!(!outcome.succeeded().all().contains("hush"), "{outcome:?}");

    let (server, url) = serve(home.path(), &options);
    let listed = |key| send(&url, "GET", "checkpoints", key, &Value::Null).1["checkpoints"].clone();
    assert_eq!(listed(ALICE)[0]["tinker_path"], path);
    assert_eq!(listed(BOB), json!([]));
    let foreign = json!({ "tinker_path": path });
    assert_eq!(send(&url, "POST", "weights_info", BOB, &foreign).0, 404);
    assert_eq!(
        send(&url, "GET", "checkpoints", "tml-hush-other", &Value::Null).0,
        401
    );
    server.signal("TERM");
    let outcome = server.finish();
    assert!(!outcome.succeeded().all().contains("hush"), "{outcome:?}");
}

#[test]
fn invalid_file_of_keys_fails_before_serve_listens() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("bad.toml");
    let path = file.to_str().unwrap();
    let serve = || {
        let arguments = [
            "serve", "--port", "0", "--engine", "scripted", "--keys", path,
        ];
        let outcome = run(home.path(), &arguments);
        assert!(!outcome.all().contains("hush"), "{outcome:?}");
        outcome
    };
    let fails = |outcome: Outcome, parts: &[&str]| {
        outcome.failed(1, &[&["bad.toml"], parts].concat());
    };
    fails(serve(), &["cannot use the file of API keys"]);
    std::fs::write(&file, KEYS).unwrap();
    fails(serve(), &["key 1, field key_env", "ALICE_KEY"]);
    let misspelt = KEYS.replace(
        "key_env = \"ALICE_KEY\"",
        "key = \"tml-hush-a\"\nownr = \"a\"",
    );
    std::fs::write(&file, misspelt).unwrap();
    fails(serve(), &["key 1, field ownr", "organization"]);
    std::fs::write(&file, "[[key]]\nkey = \"tml-hush").unwrap();
    fails(serve(), &["line 2"]);
    let both = ["serve", "--keys", path, "--api-key", "tml-hush"];
    run(home.path(), &both).failed(2, &["--keys", "--api-key"]);
}

#[cfg(unix)]
#[test]
fn credential_command_is_used_if_the_server_demands_one() {
    let home = tempfile::tempdir().unwrap();
    let faults = home.path().join("faults.toml");
    let script = r#"
[[rule]]
on = "/api/v1/client/config"
times = "always"
fault = "answer"
status = 200
body = '{"pjwt_auth_enabled": true, "credential_default_source": "credential_cmd"}'
"#;
    std::fs::write(&faults, script).unwrap();
    let options = [
        "--engine",
        "scripted",
        "--token-exchange",
        "600",
        "--faults",
        faults.to_str().unwrap(),
    ];
    let (_server, url) = serve(home.path(), &options);
    let command = format!("echo {BOB}");
    let whoami = |variables: &[(&str, &str)]| {
        let arguments = ["auth", "--base-url", &url, "whoami", "--format", "json"];
        let outcome = Program::start_with(home.path(), &arguments, variables).finish();
        assert!(!outcome.all().contains("hush"), "{outcome:?}");
        outcome
    };
    let key = ("TINKER_API_KEY", ALICE);
    let user = whoami(&[key, ("TINKER_CREDENTIAL_CMD", &command)]);
    let user = object(user.succeeded());
    assert_eq!(user["user_urn"], "tml:user:bob");
    assert_eq!(user["org_urn"], "tml:organization:example");
    let without = whoami(&[key]);
    assert_eq!(without.code, Some(4));
    assert!(
        without.stderr.contains("TINKER_CREDENTIAL_CMD"),
        "{without:?}"
    );
}
