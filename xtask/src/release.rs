//! Calls a program of the workspace, built in release, in the place of a chore.

use std::process::Stdio;

use crate::machine;

/// Builds and runs the program `name` of `package` with `arguments`; what it prints goes to the user. It must succeed.
pub(crate) fn run(package: &str, name: &str, arguments: &[String]) -> Result<(), String> {
    match status(package, name, arguments)? {
        0 => Ok(()),
        code => Err(format!("{name} ended with exit status {code}")),
    }
}

/// The same where the exit status says more than whether it went well.
pub(crate) fn status(package: &str, name: &str, arguments: &[String]) -> Result<u8, String> {
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
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.ok_or_else(|| format!("{name} ended with {status}"))
}
