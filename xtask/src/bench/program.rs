//! The programs that the benchmarks measure.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::{environment, metadata};

/// Builds the benchmarked programs in release mode. Returns the directory that contains them.
pub(crate) fn build() -> Result<PathBuf, String> {
    // The packages are built separately, because a common build would unify their features.
    for package in ["tinkers-cli", "tinkers-bench"] {
        let status = environment::cargo(&["build", "--release", "--package", package])
            .status()
            .map_err(|cause| format!("cannot run cargo: {cause}"))?;
        if !status.success() {
            return Err(format!("cannot build {package}"));
        }
    }
    Ok(metadata::workspace()?.target.join("release"))
}

/// A running server process, `tinkers serve --engine scripted`. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct ScriptedServer {
    child: Child,
    address: String,
}

impl ScriptedServer {
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
            .map_err(|cause| format!("cannot run {}: {cause}", program.display()))?;
        let stdout = child.stdout.take();
        let mut server = Self {
            child,
            address: String::new(),
        };
        // From here on, an early return drops `server`, which kills the child. The server prints
        // only one line, so the pipe never fills up.
        let mut line = String::new();
        if let Some(stdout) = stdout {
            // After a read error the line is empty, which is reported as an error below.
            let _ = BufReader::new(stdout).read_line(&mut line);
        }
        let address = line.trim().strip_prefix("listening on http://");
        server.address = address
            .ok_or_else(|| format!("expected the server to print its URL, got {line:?}"))?
            .to_owned();
        Ok(server)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the statistics that the server has counted so far, as JSON.
    pub(crate) fn counts(&self) -> Result<Value, String> {
        let fetch = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(&self.address)?;
            let host = &self.address;
            write!(
                stream,
                "GET /scripted/counts HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
            )?;
            let mut response = String::new();
            stream.read_to_string(&mut response)?;
            Ok(response)
        };
        let response = fetch().map_err(|cause| format!("cannot fetch the counters: {cause}"))?;
        let body = response.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body)
            .map_err(|cause| format!("cannot parse the counters: {cause}: {response}"))
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        // This fails only if the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running program that prints one JSON object before it exits. Dropping this value kills the
/// process.
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
            // The settings and proxies of the user must not affect the measurement.
            .env_remove("TINKER_API_KEY")
            .env_remove("TINKER_BASE_URL")
            .env("NO_PROXY", "127.0.0.1")
            .env("no_proxy", "127.0.0.1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|cause| format!("cannot run {name}: {cause}"))?;
        Ok(Self {
            name,
            stdout: read_all(child.stdout.take()),
            stderr: read_all(child.stderr.take()),
            child,
        })
    }

    /// Waits until the program has exited, and returns the JSON object that it printed.
    pub(crate) fn output(mut self) -> Result<Value, String> {
        let stdout = self.stdout.recv().unwrap_or_default();
        self.parse(&stdout)
    }

    /// Waits until the program has exited, and returns the JSON object that it printed. Kills the
    /// program after `timeout_ms` milliseconds.
    pub(crate) fn output_within(mut self, timeout_ms: u64) -> Result<RunOutcome, String> {
        match self.stdout.recv_timeout(Duration::from_millis(timeout_ms)) {
            Ok(stdout) => self.parse(&stdout).map(RunOutcome::Finished),
            Err(RecvTimeoutError::Timeout) => Ok(RunOutcome::TimedOut),
            Err(RecvTimeoutError::Disconnected) => self.parse("").map(RunOutcome::Finished),
        }
    }

    /// Waits until a program that has closed its stdout exits, and parses the JSON object in
    /// `stdout`.
    fn parse(&mut self, stdout: &str) -> Result<Value, String> {
        let name = self.name;
        let status = self
            .child
            .wait()
            .map_err(|cause| format!("{name}: {cause}"))?;
        if !status.success() {
            let stderr = self.stderr.recv().unwrap_or_default();
            return Err(format!("{name} failed: {status}\n{stderr}"));
        }
        serde_json::from_str(stdout)
            .map_err(|cause| format!("cannot parse the output of {name}: {cause}"))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // This fails only if the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a stream to its end on a separate thread, so that the pipe never fills up.
fn read_all(stream: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(mut stream) = stream {
            // If reading fails, the text that was read before is returned.
            let _ = stream.read_to_end(&mut text);
        }
        // This fails only if the receiver has been dropped.
        let _ = send.send(String::from_utf8_lossy(&text).into_owned());
    });
    receive
}

/// The outcome of waiting for a program with a timeout: the JSON object that it printed, or the
/// timeout.
#[derive(Debug)]
pub(crate) enum RunOutcome {
    Finished(Value),
    TimedOut,
}

/// Returns the number to which a JSON pointer refers in `value`. Returns an error if there is no
/// number.
pub(crate) fn number(value: &Value, pointer: &str) -> Result<f64, String> {
    let number = value.pointer(pointer).and_then(Value::as_f64);
    number.ok_or_else(|| format!("missing number {pointer} in {value}"))
}

/// Splits a command line at white space.
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
    fn missing_json_number_is_an_error() {
        let value = serde_json::json!({ "a": { "b": 1.5, "c": null } });
        assert_eq!(number(&value, "/a/b"), Ok(1.5));
        for pointer in ["/a/c", "/a", "/b"] {
            assert!(number(&value, pointer).is_err(), "{pointer}");
        }
    }

    /// Starts the program `name`, which is found in `PATH`, with the arguments in `line`.
    fn run(name: &'static str, line: &str) -> Run {
        Run::start(Path::new(""), name, &words(line)).unwrap()
    }

    #[test]
    fn program_run_returns_its_output_or_the_reason_of_its_failure() {
        let metadata = "metadata --no-deps --format-version 1";
        assert!(run("cargo", metadata).output().unwrap().is_object());
        let outcome = run("cargo", metadata).output_within(60_000).unwrap();
        assert!(matches!(outcome, RunOutcome::Finished(output) if output.is_object()));
        let error = run("cargo", "no-such-command").output().unwrap_err();
        assert!(error.contains("no such command"), "{error}");
        let error = run("cargo", "--version").output().unwrap_err();
        assert!(error.contains("cannot parse the output"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn program_is_killed_after_its_timeout() {
        let outcome = run("sleep", "600").output_within(10).unwrap();
        assert!(matches!(outcome, RunOutcome::TimedOut));
    }

    #[test]
    fn missing_server_program_is_an_error() {
        let error = ScriptedServer::start(Path::new("no/such/place"), &[]).unwrap_err();
        assert!(error.contains("cannot run"), "{error}");
    }
}
