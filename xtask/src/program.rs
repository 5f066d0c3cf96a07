//! Runs programs of the workspace in release mode.

use std::process::Stdio;

use crate::environment;

/// Builds the program `name` of the workspace package `package` and runs it. Returns an error if
/// its exit code is not 0.
pub(crate) fn run(package: &str, name: &str, arguments: &[String]) -> Result<(), String> {
    match exit_code(package, name, arguments)? {
        0 => Ok(()),
        code => Err(format!("{name} failed with exit code {code}")),
    }
}

/// Builds the program `name` of the workspace package `package` and runs it. Returns its exit code.
pub(crate) fn exit_code(package: &str, name: &str, arguments: &[String]) -> Result<u8, String> {
    let command = [
        "run",
        "--quiet",
        "--release",
        "--package",
        package,
        "--bin",
        name,
        "--",
    ];
    let status = environment::cargo(&command)
        .args(arguments)
        .stdin(Stdio::inherit())
        .status()
        .map_err(|cause| format!("cannot run cargo: {cause}"))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.ok_or_else(|| format!("{name} failed: {status}"))
}
