//! `tinkers serve`: requests, shutdown, and startup errors.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use crate::bench::serve as scripted;
use crate::program::{Program, run};

/// Sends a GET request and returns the complete response, including the status line.
pub(crate) fn fetch(url: &str, path: &str) -> String {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

#[cfg(unix)]
#[test]
fn server_listens_on_the_printed_url_and_ends_on_a_signal() {
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
        let missing = fetch(&url, "/nowhere");
        assert!(missing.starts_with("HTTP/1.1 404"), "{missing}");
        // Neither an idle connection nor an incomplete request delays the shutdown.
        let _idle = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
        let mut incomplete = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
        incomplete
            .write_all(
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
fn serve_imitates_the_server_named_by_the_dialect_option() {
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
fn openapi_document_is_printed_without_serving() {
    let home = tempfile::tempdir().unwrap();
    let printed = run(home.path(), &["serve", "--print-openapi"]);
    let document: serde_json::Value = serde_json::from_str(&printed.succeeded().stdout).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["paths"]["/api/v1/asample"]["post"].is_object());
    let options = ["serve", "--print-openapi", "--dialect", "json-strict"];
    run(home.path(), &options).failed(1, &["OpenAPI document"]);
}

#[test]
fn non_loopback_address_requires_an_api_key() {
    let home = tempfile::tempdir().unwrap();
    for host in ["0.0.0.0", "::"] {
        run(home.path(), &["serve", "--port", "0", "--host", host])
            .failed(2, &[host, "--api-key KEY", "Usage: tinkers serve"]);
    }
}

#[test]
fn error_names_the_port_in_use() {
    let home = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let arguments = ["serve", "--engine", "scripted", "--port", &port];
    run(home.path(), &arguments).failed(1, &["error:", &format!("127.0.0.1:{port}")]);
}

#[test]
fn error_names_the_invalid_model_directory() {
    let home = tempfile::tempdir().unwrap();
    let serve = |dir: &Path| {
        let dir = dir.to_str().unwrap();
        run(home.path(), &["serve", "--port", "0", "--model-dir", dir])
    };
    let nowhere = home.path().join("nowhere");
    serve(&nowhere).failed(1, &["cannot serve the model", "nowhere", "config.json"]);

    let broken = home.path().join("broken");
    std::fs::create_dir(&broken).unwrap();
    std::fs::write(broken.join("config.json"), "{\"model_type\": ").unwrap();
    serve(&broken).failed(1, &["cannot serve the model", "broken", "config.json"]);

    std::fs::write(broken.join("config.json"), "{\"model_type\": \"llama\"}").unwrap();
    serve(&broken).failed(1, &["cannot serve the model", "broken", "vocab_size"]);
}

#[test]
fn error_names_the_unusable_data_directory() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("occupied");
    std::fs::write(&file, "").unwrap();
    let arguments = ["serve", "--port", "0", "--data-dir", file.to_str().unwrap()];
    run(home.path(), &arguments).failed(1, &["data directory", "occupied"]);
}
