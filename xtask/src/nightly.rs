//! `cargo xtask nightly`: the proofs that take too long for every change.

use crate::{environment, no_arguments, out};

/// The commands to run, each with its arguments. The quick ones come first.
const COMMANDS: &[&[&str]] = &[
    &["loom"],
    &["stress", "--secs", "30"],
    &["sim", "--seeds", "10000"],
    &["sim", "--engine", "real"],
    &["fuzz", "--secs", "60"],
    &["stress", "--secs", "30", "--profile", "clean"],
    &["stress", "--secs", "30", "--profile", "rate-limited"],
    &["stress", "--secs", "30", "--profile", "flaky"],
    &["stress", "--secs", "30", "--profile", "capacity"],
    &["stress", "--secs", "30", "--profile", "storm"],
    &["stress", "--secs", "30", "--profile", "disconnects"],
    &["stress", "--secs", "30", "--profile", "churn"],
    &["stress", "--secs", "30", "--profile", "waves"],
    &["stress", "--secs", "30", "--profile", "large-update"],
    &["stress", "--secs", "300", "--profile", "soak"],
    &["stress", "--secs", "30", "--profile", "many-samples"],
    &["stress", "--secs", "67", "--profile", "outage"],
    &["interop"],
    &["mutants"],
];

/// Runs all commands, also those after a failure.
///
/// # Errors
/// Names the commands that failed.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    no_arguments(arguments)?;
    let mut failed = Vec::new();
    for &command in COMMANDS {
        let line = command.join(" ");
        out::line(&format!("=== cargo xtask {line}"));
        let arguments: Vec<String> = command.iter().map(|&text| text.to_owned()).collect();
        let watch = environment::Stopwatch::start();
        if crate::run_command(&arguments) != 0 {
            failed.push(line);
        }
        out::line(&format!("=== {:.0} s", watch.seconds()));
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(format!("failed: {}", failed.join("; "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nightly_command_exists() {
        for command in COMMANDS {
            assert!(
                crate::COMMANDS.iter().any(|known| known.name == command[0]),
                "{command:?}"
            );
        }
    }
}
