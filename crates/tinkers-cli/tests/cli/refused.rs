//! What cannot work is said at once, in words that name it, and where the fault is the caller's nothing is sent.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;

use crate::program::{Program, run};

const KEY: &str = "tml-hush";

/// A port on which connections are seen.
struct Ear {
    listener: TcpListener,
    url: String,
}

impl Ear {
    fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        Self { listener, url }
    }

    /// To be asked when the program has ended: a connection that it made waits in the queue.
    #[track_caller]
    fn heard_nothing(&self) {
        self.listener.set_nonblocking(true).unwrap();
        let error = self.listener.accept().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
}

#[test]
fn another_model_wants_its_tokenizer_before_anything_is_sent() {
    let home = tempfile::tempdir().unwrap();
    let ear = Ear::open();
    let there = ["quickstart", "--base-url", &ear.url, "--api-key", KEY];
    let model = ["--model", "Qwen/Qwen3-8B"];
    run(home.path(), &[&there[..], &model].concat()).failed(
        2,
        &[
            "Qwen/Qwen3-8B",
            "--tokenizer FILE",
            "Usage: tinkers quickstart",
        ],
    );
    let missing = ["--tokenizer", "nowhere.json"];
    run(home.path(), &[&there[..], &model, &missing].concat())
        .failed(1, &["--tokenizer nowhere.json"]);
    ear.heard_nothing();
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let home = tempfile::tempdir().unwrap();
    // Free a moment ago, and nobody listens on it now.
    let url = Ear::open().url;
    let outcome = run(
        home.path(),
        &["quickstart", "--base-url", &url, "--api-key", KEY],
    );
    outcome.failed(1, &[&format!("no session on {url}"), "refused"]);
    assert!(!outcome.stderr.contains("hush"), "{outcome:#?}");
    let mut lines: Vec<&str> = outcome.stderr.lines().collect();
    let all = lines.len();
    lines.dedup();
    assert_eq!(lines.len(), all, "the same is said twice: {outcome:#?}");
}

#[test]
fn an_address_without_a_scheme_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let ear = Ear::open();
    let bare = ear.url.strip_prefix("http://").unwrap();
    let wrong_scheme = format!("ftp://{bare}");
    for url in [bare, &wrong_scheme] {
        run(home.path(), &["quickstart", "--base-url", url]).failed(1, &["base_url", "http://"]);
    }
    ear.heard_nothing();
}

#[test]
fn the_hosted_service_takes_keys_of_its_own_alone() {
    let home = tempfile::tempdir().unwrap();
    let ear = Ear::open();
    // All that leaves for another machine goes by the proxy, which is the ear.
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
            &[("HTTPS_PROXY", &ear.url)],
        )
    };
    let outcome = start("sk-hush").finish();
    outcome.failed(1, &["api_key", "tml-"]);
    assert!(!outcome.stderr.contains("hush"), "{outcome:#?}");
    ear.heard_nothing();

    // And with such a key the ear is where the program turns to.
    ear.listener.set_nonblocking(false).unwrap();
    let _program = start(KEY);
    let (mut stream, _) = ear.listener.accept().unwrap();
    let mut word = [0; 7];
    stream.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"CONNECT");
}

#[test]
fn a_server_that_is_no_tinker_server_is_told_apart() {
    let home = tempfile::tempdir().unwrap();
    let ear = Ear::open();
    let program = Program::start(
        home.path(),
        &["quickstart", "--base-url", &ear.url, "--api-key", KEY],
    );
    let listener = ear.listener.try_clone().unwrap();
    // Goes with the process: nobody can wake it from its wait for a connection.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            // One read is as much of the request as it takes to answer it.
            if stream.read(&mut request).unwrap_or(0) > 0 {
                let page = "<html>It works!</html>";
                let answer = format!(
                    "HTTP/1.1 404 Not Found\r\ncontent-type: text/html\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{page}",
                    page.len()
                );
                let _ = stream.write_all(answer.as_bytes());
            }
        }
    });
    let outcome = program.finish();
    outcome.failed(1, &[&ear.url, "404"]);
    assert!(!outcome.stderr.contains("hush"), "{outcome:#?}");
}

#[test]
fn a_log_filter_that_cannot_be_read_is_named() {
    let home = tempfile::tempdir().unwrap();
    run(home.path(), &["serve", "--port", "0", "--log", "a=b=c"]).failed(1, &["--log", "a=b=c"]);
}
