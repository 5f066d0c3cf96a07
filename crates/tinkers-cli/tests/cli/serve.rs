//! `tinkers serve`: listening, answering, ending, and what it does not start with.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use crate::bench::serve as scripted;
use crate::program::{Program, run};

/// The answer to a plain GET, status line first.
pub(crate) fn fetch(url: &str, path: &str) -> String {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[cfg(unix)]
#[test]
fn it_answers_where_it_says_and_ends_when_asked() {
    let home = tempfile::tempdir().unwrap();
    for (signal, engine) in [
        ("TERM", "scripted"),
        ("INT", "scripted"),
        ("TERM", "candle"),
    ] {
        let mut server = Program::start(home.path(), &["serve", "--port", "0", "--engine", engine]);
        let url = server.line("listening on ");
        assert!(url.starts_with("http://127.0.0.1:"), "{url}");
        let health = fetch(&url, "/api/v1/healthz");
        assert!(health.starts_with("HTTP/1.1 200"), "{health}");
        let lost = fetch(&url, "/nowhere");
        assert!(lost.starts_with("HTTP/1.1 404"), "{lost}");
        // A connection that is open and says nothing keeps no server alive.
        let _idle = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
        // Nor does a request that never ends.
        let mut half = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
        half.write_all(
            b"POST /api/v1/create_session HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\n{",
        )
        .unwrap();
        server.signal(signal);
        let outcome = server.finish();
        outcome.succeeded();
        assert_eq!(outcome.stdout, format!("listening on {url}\n"));
        assert!(!outcome.stderr.contains("error:"), "{outcome:#?}");
    }
}

#[cfg(unix)]
#[test]
fn it_speaks_as_a_server_of_another_make() {
    let home = tempfile::tempdir().unwrap();
    let (server, url) = scripted(home.path(), &["--dialect", "skyrl"]);
    let sessions = fetch(&url, "/api/v1/sessions");
    assert!(sessions.starts_with("HTTP/1.1 404"), "{sessions}");
    assert!(
        sessions.ends_with(r#"{"detail":"Not Found"}"#),
        "{sessions}"
    );
    server.signal("TERM");
    server.finish().succeeded();
}

#[test]
fn its_document_can_be_had_without_a_server() {
    let home = tempfile::tempdir().unwrap();
    let printed = run(home.path(), &["serve", "--print-openapi"]);
    let document: serde_json::Value = serde_json::from_str(&printed.succeeded().stdout).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["paths"]["/api/v1/asample"]["post"].is_object());
    let options = ["serve", "--print-openapi", "--dialect", "json-strict"];
    run(home.path(), &options).failed(1, &["no OpenAPI document"]);
}

#[test]
fn beyond_this_machine_it_wants_a_key() {
    let home = tempfile::tempdir().unwrap();
    for host in ["0.0.0.0", "::"] {
        run(home.path(), &["serve", "--port", "0", "--host", host])
            .failed(2, &[host, "--api-key KEY", "Usage: tinkers serve"]);
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    let home = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let arguments = ["serve", "--engine", "scripted", "--port", &port];
    run(home.path(), &arguments).failed(1, &["error:", &format!("127.0.0.1:{port}")]);
}

#[test]
fn a_directory_without_a_model_is_named() {
    let home = tempfile::tempdir().unwrap();
    let serve = |dir: &Path| {
        let dir = dir.to_str().unwrap();
        run(home.path(), &["serve", "--port", "0", "--model-dir", dir])
    };
    let nowhere = home.path().join("nowhere");
    serve(&nowhere).failed(1, &["nowhere cannot be served", "config.json"]);

    let broken = home.path().join("broken");
    std::fs::create_dir(&broken).unwrap();
    std::fs::write(broken.join("config.json"), "{\"model_type\": ").unwrap();
    serve(&broken).failed(1, &["broken cannot be served", "config.json"]);

    std::fs::write(broken.join("config.json"), "{\"model_type\": \"llama\"}").unwrap();
    serve(&broken).failed(1, &["broken cannot be served", "vocab_size"]);
}

#[test]
fn a_data_directory_that_cannot_be_one_is_named() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("occupied");
    std::fs::write(&file, "").unwrap();
    let arguments = ["serve", "--port", "0", "--data-dir", file.to_str().unwrap()];
    run(home.path(), &arguments).failed(1, &["data directory", "occupied"]);
}
