//! One step of `cargo xtask ci`: a call of cargo whose output is shown only where it fails.

use std::fs::File;
use std::path::Path;

use crate::{machine, out};

/// A call of cargo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(&'static str, &'static str)>,
}

impl Step {
    /// A step whose arguments are the words of `call`.
    pub(crate) fn new(name: impl Into<String>, call: &str) -> Self {
        Self {
            name: name.into(),
            arguments: call.split_whitespace().map(str::to_owned).collect(),
            environment: Vec::new(),
        }
    }

    /// Sets a variable for this step alone.
    pub(crate) fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.push((name, value));
        self
    }

    /// Runs it to its end; what it printed is kept under `logs`, and is the error where it fails.
    pub(crate) fn run(&self, logs: &Path) -> Result<(), String> {
        let log = logs.join(format!("{}.log", self.name.replace([' ', '/'], "-")));
        let unwritable = |cause| format!("{} cannot be written: {cause}", log.display());
        let file = File::create(&log).map_err(unwritable)?;
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let status = machine::cargo(&arguments)
            .envs(self.environment.iter().copied())
            .stderr(file.try_clone().map_err(unwritable)?)
            .stdout(file)
            .status()
            .map_err(|cause| format!("cargo could not be started: {cause}"))?;
        if status.success() {
            return Ok(());
        }
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        Err(format!(
            "`cargo {}` ended with {status}\n{said}",
            self.arguments.join(" ")
        ))
    }
}

/// Runs `work` and prints its line: what came out and how long it took.
pub(crate) fn timed(name: &str, work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let began = machine::Stopwatch::start();
    let result = work();
    let mark = if result.is_ok() { "ok    " } else { "FAILED" };
    out::line(&format!("{mark} {name:<40} {:>7.1} s", began.seconds()));
    result.map_err(|why| format!("step `{name}` failed: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(call: &str) -> Result<(), String> {
        let logs = std::env::temp_dir().join("tinkers-xtask-steps");
        std::fs::create_dir_all(&logs).unwrap();
        Step::new(format!("try {call}"), call).run(&logs)
    }

    #[test]
    fn a_step_passes_where_cargo_does() {
        assert_eq!(run("--version"), Ok(()));
    }

    #[test]
    fn a_step_that_fails_shows_what_was_said() {
        let said = run("no-such-command").unwrap_err();
        assert!(
            said.contains("`cargo no-such-command` ended with"),
            "{said}"
        );
        assert!(said.contains("no such command"), "{said}");
    }

    #[test]
    fn a_failure_names_its_step() {
        let result = timed("one", || Err("why".to_owned()));
        assert_eq!(result, Err("step `one` failed: why".to_owned()));
    }
}
