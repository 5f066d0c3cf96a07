//! The environment in which tasks run: the workspace root, cargo, environment variables and the
//! clock.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Returns the root directory of the workspace.
pub(crate) fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_path_buf()
}

/// Returns a command that runs the current cargo in the workspace root. The command has no stdin.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let program = variable("CARGO").unwrap_or_else(|| "cargo".to_owned());
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(root())
        .stdin(Stdio::null());
    command
}

/// Returns the value of an environment variable, or `None` if it is not set or not valid UTF-8.
#[expect(
    clippy::disallowed_methods,
    reason = "cargo and CI pass settings in environment variables"
)]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Returns the environment variables of `names` that are set, with their values.
pub(crate) fn variables<'a>(names: &[&'a str]) -> Vec<(&'a str, String)> {
    names
        .iter()
        .filter_map(|name| variable(name).map(|value| (*name, value)))
        .collect()
}

/// Returns whether the command runs in CI. There, a check that cannot run counts as failed.
pub(crate) fn is_ci() -> bool {
    variable("CI").is_some_and(|value| !value.is_empty() && value != "false")
}

/// A stopwatch that measures the time since its creation.
#[derive(Debug)]
pub(crate) struct Stopwatch(Instant);

#[expect(clippy::disallowed_methods, reason = "the time is only displayed")]
impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Returns the number of seconds since the stopwatch was created.
    pub(crate) fn seconds(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}
