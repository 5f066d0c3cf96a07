//! The steps of `cargo xtask ci`. A step is a cargo command or a built program whose output is only shown if it fails.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{environment, out};

/// A step of the CI checks. It runs one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) name: String,
    /// The program to run instead of cargo. `None` to run cargo.
    pub(crate) program: Option<PathBuf>,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(&'static str, String)>,
}

impl Step {
    /// Creates a step. `command` contains the arguments for cargo, separated by white space.
    pub(crate) fn new(name: impl Into<String>, command: &str) -> Self {
        Self {
            name: name.into(),
            program: None,
            arguments: command.split_whitespace().map(str::to_owned).collect(),
            environment: Vec::new(),
        }
    }

    /// Creates a step that runs a program of the workspace, built before, without arguments.
    pub(crate) fn program(name: impl Into<String>, path: PathBuf) -> Self {
        Self {
            program: Some(path),
            ..Self::new(name, "")
        }
    }

    /// Sets an environment variable for this step.
    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.environment.push((name, value.to_owned()));
        self
    }

    /// Runs the command of the step and writes its output to a file in the directory `logs`. If the
    /// command fails, the error contains the output.
    pub(crate) fn run(&self, logs: &Path) -> Result<(), String> {
        let log = logs.join(format!("{}.log", self.name.replace([' ', '/'], "-")));
        let unwritable = |cause| format!("cannot write {}: {cause}", log.display());
        let file = File::create(&log).map_err(unwritable)?;
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let mut command = match &self.program {
            None => environment::cargo(&arguments),
            Some(path) => {
                let mut command = Command::new(path);
                command
                    .current_dir(environment::root())
                    .stdin(Stdio::null());
                command
            }
        };
        let status = command
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stderr(file.try_clone().map_err(unwritable)?)
            .stdout(file)
            .status()
            .map_err(|cause| format!("cannot run {}: {cause}", self.shown()))?;
        if status.success() {
            return Ok(());
        }
        let output = std::fs::read_to_string(&log).unwrap_or_default();
        Err(format!("`{}` failed: {status}\n{output}", self.shown()))
    }

    /// Returns the command line of the step as a user would type it.
    pub(crate) fn shown(&self) -> String {
        match &self.program {
            None => format!("cargo {}", self.arguments.join(" ")),
            Some(path) => path.display().to_string(),
        }
    }
}

/// Runs the closure `work`, and prints a line with `name`, the outcome and the duration.
pub(crate) fn timed(name: &str, work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let watch = environment::Stopwatch::start();
    let result = work();
    let mark = if result.is_ok() { "ok    " } else { "FAILED" };
    out::line(&format!("{mark} {name:<40} {:>7.1} s", watch.seconds()));
    result.map_err(|error| format!("step `{name}` failed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(command: &str) -> Result<(), String> {
        let logs = std::env::temp_dir().join("tinkers-xtask-steps");
        std::fs::create_dir_all(&logs).unwrap();
        Step::new(format!("run {command}"), command).run(&logs)
    }

    #[test]
    fn ci_step_passes_if_cargo_succeeds() {
        assert_eq!(run("--version"), Ok(()));
    }

    #[test]
    fn error_of_a_failed_ci_step_contains_the_output() {
        let error = run("no-such-command").unwrap_err();
        assert!(error.contains("`cargo no-such-command` failed"), "{error}");
        assert!(error.contains("no such command"), "{error}");
    }

    #[test]
    fn error_of_a_failed_ci_step_names_the_step() {
        let result = timed("one", || Err("why".to_owned()));
        assert_eq!(result, Err("step `one` failed: why".to_owned()));
    }
}
