//! `cargo xtask pretrain`: the heavy work is in an example of tinkers-engine; this calls it in release.

use std::process::Stdio;

use crate::machine;

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let call = [
        "run",
        "--release",
        "--package",
        "tinkers-engine",
        "--example",
        "pretrain",
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
    Err(format!("pretrain ended with {status}"))
}
