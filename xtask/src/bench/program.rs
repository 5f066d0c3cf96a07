//! The programs under measurement: built, started, asked, ended.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::{machine, metadata};

/// The directory of the release builds, after building what is measured.
pub(crate) fn build() -> Result<PathBuf, String> {
    // One after the other: together they would be built with each other's features, and anew.
    for package in ["tinkers-cli", "tinkers-bench"] {
        let status = machine::cargo(&["build", "--release", "--package", package])
            .status()
            .map_err(|cause| format!("cargo could not be started: {cause}"))?;
        if !status.success() {
            return Err(format!("{package} does not build"));
        }
    }
    Ok(metadata::workspace()?.target.join("release"))
}

/// `tinkers serve --engine scripted` in a process of its own, which ends with this.
#[derive(Debug)]
pub(crate) struct Scripted {
    child: Child,
    address: String,
}

impl Scripted {
    pub(crate) fn start(release: &Path, options: &[String]) -> Result<Self, String> {
        let program = executable(release, "tinkers");
        let mut child = Command::new(&program)
            .args([
                "serve", "--port", "0", "--engine", "scripted", "--log", "warn",
            ])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|cause| format!("{} could not be started: {cause}", program.display()))?;
        let stdout = child.stdout.take();
        let mut server = Self {
            child,
            address: String::new(),
        };
        // From here on an early return ends the child. It says one line, so the pipe never fills.
        let mut line = String::new();
        if let Some(stdout) = stdout {
            // A read that fails leaves the line empty, which is an error below.
            let _ = BufReader::new(stdout).read_line(&mut line);
        }
        let address = line.trim().strip_prefix("listening on http://");
        server.address = address
            .ok_or_else(|| format!("the server said {line:?} and not where it listens"))?
            .to_owned();
        Ok(server)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What its window saw.
    pub(crate) fn counts(&self) -> Result<Value, String> {
        let fetch = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(&self.address)?;
            let host = &self.address;
            write!(
                stream,
                "GET /scripted/counts HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = fetch().map_err(|cause| format!("the server's counts: {cause}"))?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body)
            .map_err(|cause| format!("the server's counts: {cause}: {answer}"))
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        // Either fails only where the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A run of a program that prints one JSON object.
#[derive(Debug)]
pub(crate) struct Run {
    name: &'static str,
    child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

impl Run {
    pub(crate) fn start(
        release: &Path,
        name: &'static str,
        arguments: &[String],
    ) -> Result<Self, String> {
        let mut child = Command::new(executable(release, name))
            .args(arguments)
            // Neither the user's own settings nor a proxy may come between the two.
            .env_remove("TINKER_API_KEY")
            .env_remove("TINKER_BASE_URL")
            .env("NO_PROXY", "127.0.0.1")
            .env("no_proxy", "127.0.0.1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|cause| format!("{name} could not be started: {cause}"))?;
        Ok(Self {
            name,
            stdout: read_all(child.stdout.take()),
            stderr: read_all(child.stderr.take()),
            child,
        })
    }

    /// Waits for its object.
    pub(crate) fn object(mut self) -> Result<Value, String> {
        let said = self.stdout.recv().unwrap_or_default();
        self.read(&said)
    }

    /// The same, for so many milliseconds at most; then it is stopped.
    pub(crate) fn within(mut self, limit_ms: u64) -> Result<Limited, String> {
        match self.stdout.recv_timeout(Duration::from_millis(limit_ms)) {
            Ok(said) => self.read(&said).map(Limited::Ended),
            Err(RecvTimeoutError::Timeout) => Ok(Limited::Stopped),
            Err(RecvTimeoutError::Disconnected) => self.read("").map(Limited::Ended),
        }
    }

    /// It has closed its stdout, which it does by ending.
    fn read(&mut self, said: &str) -> Result<Value, String> {
        let name = self.name;
        let status = self
            .child
            .wait()
            .map_err(|cause| format!("{name}: {cause}"))?;
        if !status.success() {
            let why = self.stderr.recv().unwrap_or_default();
            return Err(format!("{name} ended with {status}:\n{why}"));
        }
        serde_json::from_str(said).map_err(|cause| format!("{name} printed no JSON: {cause}"))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Either fails only where the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a stream says up to its end, read on a thread of its own so that it never fills.
fn read_all(stream: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(mut stream) = stream {
            // What was read until it broke is told.
            let _ = stream.read_to_end(&mut text);
        }
        // Whoever asked may have stopped listening.
        let _ = send.send(String::from_utf8_lossy(&text).into_owned());
    });
    receive
}

/// How a run with a limit ended.
#[derive(Debug)]
pub(crate) enum Limited {
    Ended(Value),
    Stopped,
}

/// A number in an object; what is not there is an error, and never zero.
pub(crate) fn number(value: &Value, pointer: &str) -> Result<f64, String> {
    let number = value.pointer(pointer).and_then(Value::as_f64);
    number.ok_or_else(|| format!("no number {pointer} in {value}"))
}

/// Command-line words.
pub(crate) fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn executable(release: &Path, name: &str) -> PathBuf {
    release.join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_not_there_is_an_error() {
        let value = serde_json::json!({ "a": { "b": 1.5, "c": null } });
        assert_eq!(number(&value, "/a/b"), Ok(1.5));
        for pointer in ["/a/c", "/a", "/b"] {
            assert!(number(&value, pointer).is_err(), "{pointer}");
        }
    }

    /// A program that is found by its name.
    fn run(name: &'static str, line: &str) -> Run {
        Run::start(Path::new(""), name, &words(line)).unwrap()
    }

    #[test]
    fn a_run_gives_its_object_or_why_it_failed() {
        let metadata = "metadata --no-deps --format-version 1";
        assert!(run("cargo", metadata).object().unwrap().is_object());
        let ended = run("cargo", metadata).within(60_000).unwrap();
        assert!(matches!(ended, Limited::Ended(told) if told.is_object()));
        let error = run("cargo", "no-such-command").object().unwrap_err();
        assert!(error.contains("no such command"), "{error}");
        let error = run("cargo", "--version").object().unwrap_err();
        assert!(error.contains("printed no JSON"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_run_that_takes_too_long_is_stopped() {
        let stopped = run("sleep", "600").within(10).unwrap();
        assert!(matches!(stopped, Limited::Stopped));
    }

    #[test]
    fn a_server_that_is_not_there_is_an_error() {
        let error = Scripted::start(Path::new("no/such/place"), &[]).unwrap_err();
        assert!(error.contains("could not be started"), "{error}");
    }
}
