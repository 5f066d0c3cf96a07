//! `cargo xtask pretrain`: runs the `pretrain` example of tinkers-engine in release mode.

use std::process::Stdio;

use crate::environment;

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let command = [
        "run",
        "--release",
        "--package",
        "tinkers-engine",
        "--example",
        "pretrain",
        "--",
    ];
    let status = environment::cargo(&command)
        .args(arguments)
        .stdin(Stdio::inherit())
        .status()
        .map_err(|cause| format!("cannot run cargo: {cause}"))?;
    if status.success() {
        return Ok(());
    }
    Err(format!("pretrain failed: {status}"))
}
