//! The process of a server. A supervisor script starts the server, and ends it when the
//! supervisor's stdin is closed.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::peer::{self, Peer, StartCommand};
use crate::environment;
use crate::venv::Venv;

/// The number of lines from the end of a server's log that are shown if the server or the client
/// fails.
const TAIL_LINES: usize = 40;

/// A running server of another implementation. Dropping it ends the server and all of its child
/// processes.
#[derive(Debug)]
pub(crate) struct PeerProcess {
    supervisor: Child,
    log: PathBuf,
}

impl PeerProcess {
    /// Starts a server in the directory `home`, and waits until the server is ready, which means
    /// that it has created a model.
    pub(crate) fn start(
        venv: &Venv,
        peer: Peer,
        home: &Path,
        url: &str,
        start: &StartCommand,
    ) -> Result<Self, String> {
        let log = home.join("server.log");
        let path = std::env::join_paths(std::iter::once(venv.programs()).chain(
            std::env::split_paths(&environment::variable("PATH").unwrap_or_default()),
        ))
        .map_err(|cause| format!("cannot extend PATH: {cause}"))?;
        let mut command = Command::new(venv.python());
        command
            // Python runs in isolated mode, because PYTHONPATH is only meant for the server that
            // the script starts.
            .args(["-I", "-u"])
            .arg(peer::scripts().join("hold.py"))
            .arg(&log)
            .args([url, peer::KEY, peer::MODEL, "--"])
            .args(&start.command)
            .current_dir(home)
            .env_clear()
            .envs(environment::variables(&["HOME", "TMPDIR"]))
            .env("PATH", path)
            .envs(start.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut supervisor = command
            .spawn()
            .map_err(|cause| format!("cannot run {command:?}: {cause}"))?;
        let stdout = supervisor.stdout.take();
        let process = Self { supervisor, log };
        // From here on, an early return drops `process`, which ends the server.
        let mut line = String::new();
        if let Some(stdout) = stdout {
            BufReader::new(stdout)
                .read_line(&mut line)
                .map_err(|cause| format!("cannot read from the supervisor: {cause}"))?;
        }
        if line.trim() == "ready" {
            return Ok(process);
        }
        let failure = if line.is_empty() {
            "failed without a message"
        } else {
            line.trim()
        };
        Err(format!(
            "{} {failure}; its log ends with:\n{}",
            peer.name(),
            process.log_tail()
        ))
    }

    /// Returns whether the server process is running.
    pub(crate) fn is_up(&mut self) -> bool {
        matches!(self.supervisor.try_wait(), Ok(None))
    }

    /// Returns the last lines of the server's log.
    pub(crate) fn log_tail(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        last_lines(&String::from_utf8_lossy(&log))
    }
}

impl Drop for PeerProcess {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        // This fails only if the process has already ended.
        let _ = self.supervisor.wait();
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines
        .get(lines.len().saturating_sub(TAIL_LINES)..)
        .unwrap_or_default()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_log_is_truncated_to_its_last_lines() {
        let long: Vec<String> = (0..100).map(|at| at.to_string()).collect();
        let tail = last_lines(&long.join("\n"));
        assert_eq!(
            (tail.lines().next(), tail.lines().last()),
            (Some("60"), Some("99"))
        );
        assert_eq!(last_lines("one\ntwo"), "one\ntwo");
        assert_eq!(last_lines(""), "");
    }
}
