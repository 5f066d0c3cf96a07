//! The server under test as a child process, ended by its handle.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// What the server prints when it takes requests, before its address.
const LISTENING: &str = "listening on ";

/// How long it may take to load its model and say so.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server; dropping it ends the process.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    url: String,
}

/// Where the server for `release` writes what it has to say.
pub(crate) fn log(home: &Path, release: &str) -> PathBuf {
    home.join(format!("server-{release}.log"))
}

impl Server {
    /// Starts `program` on `port`, where 0 is any free one, with an empty data directory and waits for its address.
    pub(crate) fn start(
        program: &Path,
        home: &Path,
        release: &str,
        port: u16,
        key: &str,
    ) -> Result<Self, String> {
        let data = home.join(format!("data-{release}"));
        if data.exists() {
            std::fs::remove_dir_all(&data)
                .map_err(|cause| format!("{} cannot be emptied: {cause}", data.display()))?;
        }
        let log = log(home, release);
        let stderr = File::create(&log)
            .map_err(|cause| format!("{} cannot be written: {cause}", log.display()))?;
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
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(|cause| format!("{} could not be started: {cause}", program.display()))?;
        let stdout = child.stdout.take();
        let mut server = Self {
            child,
            url: String::new(),
        };
        // From here on an early return ends the child, since the handle is dropped.
        let announced = stdout.and_then(announcement);
        let Some(url) = announced else {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            return Err(format!(
                "the server never said `{LISTENING}..`; it said:\n{said}"
            ));
        };
        server.url = url;
        Ok(server)
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Whether the process still runs.
    pub(crate) fn is_up(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Either fails only where the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address in the first line that announces one. The pipe is read to its end on a thread of its own, so that the
/// server never blocks on a full one.
fn announcement(stdout: impl Read + Send + 'static) -> Option<String> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Some(url) = address(&line) {
                // Nobody listens any more after the first.
                let _ = send.send(url);
            }
        }
    });
    receive.recv_timeout(PATIENCE).ok()
}

fn address(line: &str) -> Option<String> {
    let rest = line.split_once(LISTENING)?.1;
    let url = rest.split_whitespace().next()?;
    url.starts_with("http://")
        .then(|| url.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_from_its_line() {
        let address = |line| address(line).unwrap_or_default();
        assert_eq!(
            address("listening on http://127.0.0.1:41234"),
            "http://127.0.0.1:41234"
        );
        assert_eq!(
            address("tinkers: listening on http://[::1]:80/ now"),
            "http://[::1]:80"
        );
        assert_eq!(address("listening on nothing"), "");
        assert_eq!(address("loading the model"), "");
    }

    #[test]
    fn the_first_announcement_wins_and_silence_is_none() {
        let said = b"loading\nlistening on http://127.0.0.1:1\nlistening on http://127.0.0.1:2\n";
        assert_eq!(
            announcement(&said[..]),
            Some("http://127.0.0.1:1".to_owned())
        );
        assert_eq!(announcement(&b"loading\n"[..]), None);
    }

    #[test]
    fn a_program_that_never_listens_is_an_error_with_what_it_said() {
        let home = std::env::temp_dir().join("tinkers-xtask-server");
        std::fs::create_dir_all(&home).unwrap();
        let error = Server::start(Path::new("cargo"), &home, "1", 0, "tml-x").unwrap_err();
        assert!(error.contains("no such command"), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let home = std::env::temp_dir().join("tinkers-xtask-server");
        std::fs::create_dir_all(&home).unwrap();
        let error =
            Server::start(Path::new("no-such-program"), &home, "0", 0, "tml-x").unwrap_err();
        assert!(error.contains("could not be started"), "{error}");
    }
}
