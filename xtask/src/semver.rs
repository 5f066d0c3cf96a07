//! `cargo xtask semver`: compares the public API with the last release by cargo-semver-checks.

use std::process::Command;

use crate::{environment, out, tools};

/// The version of cargo-semver-checks to install if it is not installed.
const VERSION: &str = "0.51.0";

/// Fails if a crate has an incompatible API change without the increase of the version number that
/// semantic versioning requires. The API is compared with the newest tag `v…` before the current
/// commit. Without such a tag, there is nothing to compare.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    crate::no_arguments(arguments)?;
    let Some(tag) = last_release()? else {
        out::line("no release tag `v…` before this commit: nothing to compare");
        return Ok(());
    };
    let program = tools::installed("cargo-semver-checks", VERSION)?;
    let status = Command::new(program)
        .args(["semver-checks", "--workspace", "--all-features"])
        .args(["--baseline-rev", &tag])
        .current_dir(environment::root())
        .status()
        .map_err(|cause| format!("cannot run cargo-semver-checks: {cause}"))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("the API differs from {tag}: {status}")),
    }
}

/// Returns the newest release tag that the current commit contains.
fn last_release() -> Result<Option<String>, String> {
    let output = Command::new("git")
        .args([
            "tag",
            "--list",
            "v*",
            "--merged",
            "HEAD",
            "--sort=-version:refname",
        ])
        .current_dir(environment::root())
        .output()
        .map_err(|cause| format!("cannot run git: {cause}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("git tag failed: {}", stderr.trim()));
    }
    let tags = String::from_utf8_lossy(&output.stdout);
    Ok(tags.lines().next().map(str::to_owned))
}
