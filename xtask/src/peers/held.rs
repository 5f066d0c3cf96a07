//! A foreign server as a process that cannot outlive us: a script holds it, and ends it when our end of a pipe is gone.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::peer::{self, Peer, Start};
use crate::machine;
use crate::venv::Venv;

/// How many of the last lines of a log are shown.
const TAIL: usize = 40;

/// A running server; dropping it ends the server and everything that it started.
#[derive(Debug)]
pub(crate) struct Held {
    holder: Child,
    log: PathBuf,
}

impl Held {
    /// Starts `peer` in `home` and waits until it has made a model.
    pub(crate) fn start(
        venv: &Venv,
        peer: Peer,
        home: &Path,
        url: &str,
        start: &Start,
    ) -> Result<Self, String> {
        let log = home.join("server.log");
        let path = std::env::join_paths(std::iter::once(venv.programs()).chain(
            std::env::split_paths(&machine::variable("PATH").unwrap_or_default()),
        ))
        .map_err(|cause| format!("the path cannot be extended: {cause}"))?;
        let mut command = Command::new(venv.python());
        command
            // Isolated: the stand-ins are for the server that it starts.
            .args(["-I", "-u"])
            .arg(peer::scripts().join("hold.py"))
            .arg(&log)
            .args([url, peer::KEY, peer::MODEL, "--"])
            .args(&start.command)
            .current_dir(home)
            .env_clear()
            .envs(machine::variables(&["HOME", "TMPDIR"]))
            .env("PATH", path)
            .envs(start.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut holder = command
            .spawn()
            .map_err(|cause| format!("{command:?} could not be started: {cause}"))?;
        let stdout = holder.stdout.take();
        let held = Self { holder, log };
        // From here on an early return ends the server, since the handle is dropped.
        let mut said = String::new();
        if let Some(stdout) = stdout {
            BufReader::new(stdout)
                .read_line(&mut said)
                .map_err(|cause| format!("the holder cannot be heard: {cause}"))?;
        }
        if said.trim() == "ready" {
            return Ok(held);
        }
        let said = if said.is_empty() {
            "failed without a word"
        } else {
            said.trim()
        };
        Err(format!(
            "{} {said}; its log ends with:\n{}",
            peer.name(),
            held.tail()
        ))
    }

    /// Whether the server still runs.
    pub(crate) fn is_up(&mut self) -> bool {
        matches!(self.holder.try_wait(), Ok(None))
    }

    /// The end of what it has said.
    pub(crate) fn tail(&self) -> String {
        let said = std::fs::read(&self.log).unwrap_or_default();
        last_lines(&String::from_utf8_lossy(&said))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        // It fails only where the process is gone already.
        let _ = self.holder.wait();
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines
        .get(lines.len().saturating_sub(TAIL)..)
        .unwrap_or_default()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_end_of_a_long_log_and_all_of_a_short_one() {
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
