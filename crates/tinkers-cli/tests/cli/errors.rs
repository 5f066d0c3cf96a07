//! Errors. Invalid arguments are reported before anything is sent, and messages name the cause.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;

use crate::program::{Program, run};

const KEY: &str = "tml-secret";

/// A listener that records whether the program under test connects to it.
struct Listener {
    socket: TcpListener,
    url: String,
}

impl Listener {
    fn open() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", socket.local_addr().unwrap());
        Self { socket, url }
    }

    /// Asserts that the program made no connection. Must be called after the program has ended.
    #[track_caller]
    fn assert_no_connection(&self) {
        self.socket.set_nonblocking(true).unwrap();
        let error = self.socket.accept().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
}

#[test]
fn missing_tokenizer_is_reported_before_connecting() {
    let home = tempfile::tempdir().unwrap();
    let listener = Listener::open();
    let command = ["quickstart", "--base-url", &listener.url, "--api-key", KEY];
    let model = ["--model", "Qwen/Qwen3-8B"];
    run(home.path(), &[&command[..], &model].concat()).failed(
        2,
        &[
            "Qwen/Qwen3-8B",
            "--tokenizer FILE",
            "Usage: tinkers quickstart",
        ],
    );
    let missing = ["--tokenizer", "nowhere.json"];
    run(home.path(), &[&command[..], &model, &missing].concat())
        .failed(1, &["--tokenizer nowhere.json"]);
    listener.assert_no_connection();
}

#[test]
fn error_names_the_unreachable_server() {
    let home = tempfile::tempdir().unwrap();
    // The listener is dropped, so connections to its port are refused.
    let url = Listener::open().url;
    let outcome = run(
        home.path(),
        &["quickstart", "--base-url", &url, "--api-key", KEY],
    );
    outcome.failed(5, &[&format!("cannot open a session on {url}"), "refused"]);
    assert!(!outcome.stderr.contains("secret"), "{outcome:#?}");
    let mut lines: Vec<&str> = outcome.stderr.lines().collect();
    let all = lines.len();
    lines.dedup();
    assert_eq!(lines.len(), all, "repeated line: {outcome:#?}");
}

#[test]
fn base_url_without_http_scheme_is_rejected() {
    let home = tempfile::tempdir().unwrap();
    let listener = Listener::open();
    let bare = listener.url.strip_prefix("http://").unwrap();
    let wrong_scheme = format!("ftp://{bare}");
    for url in [bare, &wrong_scheme] {
        run(home.path(), &["quickstart", "--base-url", url]).failed(2, &["base_url", "http://"]);
    }
    listener.assert_no_connection();
}

#[test]
fn hosted_service_requires_an_api_key_that_starts_with_tml() {
    let home = tempfile::tempdir().unwrap();
    let listener = Listener::open();
    // The listener acts as proxy, so that it receives any connection to the hosted service.
    let start = |key| {
        Program::start_with(
            home.path(),
            &[
                "quickstart",
                "--base-url",
                "https://tinker.thinkingmachines.dev/services/tinker-prod",
                "--api-key",
                key,
            ],
            &[("HTTPS_PROXY", &listener.url)],
        )
    };
    let outcome = start("sk-secret").finish();
    outcome.failed(2, &["api_key", "tml-"]);
    assert!(!outcome.stderr.contains("secret"), "{outcome:#?}");
    listener.assert_no_connection();

    // With a valid key, the program connects.
    listener.socket.set_nonblocking(false).unwrap();
    let _program = start(KEY);
    let (mut stream, _) = listener.socket.accept().unwrap();
    let mut method = [0; 7];
    stream.read_exact(&mut method).unwrap();
    assert_eq!(&method, b"CONNECT");
}

#[test]
fn server_without_the_tinker_api_is_reported() {
    let home = tempfile::tempdir().unwrap();
    let listener = Listener::open();
    let socket = listener.socket.try_clone().unwrap();
    // The thread blocks in accept until the process ends.
    std::thread::spawn(move || {
        for stream in socket.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            // The response does not depend on the request, so one read is enough.
            if stream.read(&mut request).unwrap_or(0) > 0 {
                let page = "<html>It works!</html>";
                let response = format!(
                    "HTTP/1.1 404 Not Found\r\ncontent-type: text/html\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{page}",
                    page.len()
                );
                let _ = stream.write_all(response.as_bytes());
            }
        }
    });
    for command in [&["doctor"][..], &["quickstart"], &["bench", "sample"]] {
        let arguments = [command, &["--base-url", &listener.url, "--api-key", KEY]].concat();
        let program = Program::start(home.path(), &arguments);
        let outcome = program.finish();
        let cause = format!("{} is no Tinker server", listener.url);
        assert_eq!(outcome.code, Some(5), "{command:?} {outcome:#?}");
        for needle in [&cause, "check base_url", "404"] {
            assert!(outcome.stderr.contains(needle), "{command:?} {outcome:#?}");
        }
        assert!(
            !outcome.stderr.contains("secret"),
            "{command:?} {outcome:#?}"
        );
    }
}

#[test]
fn error_names_the_invalid_log_filter() {
    let home = tempfile::tempdir().unwrap();
    run(home.path(), &["serve", "--port", "0", "--log", "a=b=c"]).failed(2, &["--log", "a=b=c"]);
}
