//! Calls a program of the workspace, built in release, in the place of a chore.

use std::process::Stdio;

use crate::machine;

/// Builds and runs the program `name` of `package` with `arguments`; what it prints goes to the user.
pub(crate) fn run(package: &str, name: &str, arguments: &[String]) -> Result<(), String> {
    let call = [
        "run",
        "--quiet",
        "--release",
        "--package",
        package,
        "--bin",
        name,
        "--",
    ];
    let status = machine::cargo(&call)
        .args(arguments)
        .stdin(Stdio::inherit())
        .status()
        .map_err(|cause| format!("cargo could not be started: {cause}"))?;
    if status.success() {
        return Ok(());
    }
    Err(format!("{name} ended with {status}"))
}
