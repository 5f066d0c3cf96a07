//! The server under test, as a child process.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// The text that precedes the URL in the output of the server. The server prints this text when it
/// is ready to accept requests.
const LISTENING: &str = "listening on ";

/// The time limit for the start of the server, which includes loading the model.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A running server process. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    url: String,
}

/// Returns the path of the log file of the server of this name.
pub(crate) fn log(home: &Path, name: &str) -> PathBuf {
    home.join(format!("server-{name}.log"))
}

impl Server {
    /// Starts `program` with an empty data directory and further options. With port 0, the operating
    /// system selects a free port. Waits until the program prints its URL. `name` tells the log file
    /// and the data directory apart from those of other servers.
    pub(crate) fn start(
        program: &Path,
        home: &Path,
        name: &str,
        port: u16,
        key: &str,
        options: &[&str],
    ) -> Result<Self, String> {
        let data = home.join(format!("data-{name}"));
        if data.exists() {
            std::fs::remove_dir_all(&data)
                .map_err(|cause| format!("cannot remove {}: {cause}", data.display()))?;
        }
        let log = log(home, name);
        let stderr = File::create(&log)
            .map_err(|cause| format!("cannot write {}: {cause}", log.display()))?;
        let mut child = Command::new(program)
            .args([
                "serve",
                "--port",
                &port.to_string(),
                "--api-key",
                key,
                "--data-dir",
            ])
            .arg(&data)
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(|cause| format!("cannot run {}: {cause}", program.display()))?;
        let stdout = child.stdout.take();
        let mut server = Self {
            child,
            url: String::new(),
        };
        // From here on, an early return drops `server`, which kills the child.
        let Some(url) = stdout.and_then(wait_for_url) else {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            return Err(format!(
                "the server did not print `{LISTENING}..`; its log:\n{log}"
            ));
        };
        server.url = url;
        Ok(server)
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Returns whether the server process is running.
    pub(crate) fn is_up(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // This fails only if the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the first URL that the server prints. Another thread reads stdout to its end, so that a
/// full pipe never blocks the server.
fn wait_for_url(stdout: impl Read + Send + 'static) -> Option<String> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Some(url) = parse_url(&line) {
                // This fails after the first URL, because the receiver has been dropped.
                let _ = send.send(url);
            }
        }
    });
    receive.recv_timeout(START_TIMEOUT).ok()
}

fn parse_url(line: &str) -> Option<String> {
    let rest = line.split_once(LISTENING)?.1;
    let url = rest.split_whitespace().next()?;
    url.starts_with("http://")
        .then(|| url.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_url_is_parsed_from_a_line_of_output() {
        let parse = |line| parse_url(line).unwrap_or_default();
        assert_eq!(
            parse("listening on http://127.0.0.1:41234"),
            "http://127.0.0.1:41234"
        );
        assert_eq!(
            parse("tinkers: listening on http://[::1]:80/ now"),
            "http://[::1]:80"
        );
        assert_eq!(parse("listening on nothing"), "");
        assert_eq!(parse("loading the model"), "");
    }

    #[test]
    fn first_url_of_the_server_output_is_returned() {
        let output = b"loading\nlistening on http://127.0.0.1:1\nlistening on http://127.0.0.1:2\n";
        assert_eq!(
            wait_for_url(&output[..]),
            Some("http://127.0.0.1:1".to_owned())
        );
        assert_eq!(wait_for_url(&b"loading\n"[..]), None);
    }

    #[test]
    fn error_of_a_program_that_prints_no_url_contains_its_log() {
        let home = std::env::temp_dir().join("tinkers-xtask-server");
        std::fs::create_dir_all(&home).unwrap();
        let error = Server::start(Path::new("cargo"), &home, "1", 0, "tml-x", &[]).unwrap_err();
        assert!(error.contains("no such command"), "{error}");
    }

    #[test]
    fn missing_server_program_is_an_error() {
        let home = std::env::temp_dir().join("tinkers-xtask-server");
        std::fs::create_dir_all(&home).unwrap();
        let error =
            Server::start(Path::new("no-such-program"), &home, "0", 0, "tml-x", &[]).unwrap_err();
        assert!(error.contains("cannot run"), "{error}");
    }
}
