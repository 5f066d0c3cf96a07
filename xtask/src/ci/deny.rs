//! Runs cargo-deny, if it is installed, to check licences, bans, sources and advisories.

use std::process::Output;

use crate::{environment, out};

/// The error message of cargo-deny if the advisory database cannot be reached.
const UNREACHABLE: &str = "failed to fetch advisory database";

/// Runs cargo-deny with the rules of `deny.toml`. If cargo-deny is not installed, reports which of
/// its checks are skipped. [`super::supply`] makes all of these checks except the advisory check.
pub(crate) fn check() -> Result<(), String> {
    let is_installed = call(&["deny", "--version"])?.status.success();
    if !is_installed {
        out::line("NOT CHECKED: advisories (cargo-deny is not installed)");
        return Ok(());
    }
    let offline = call(&[
        "deny", "--color", "never", "check", "bans", "licenses", "sources",
    ])?;
    if !offline.status.success() {
        return Err(text(&offline));
    }
    let advisories = call(&["deny", "--color", "never", "check", "advisories"])?;
    advisories_result(advisories.status.success(), &text(&advisories))
}

/// Decides from the output `text` of cargo-deny whether the advisory check has passed. The check
/// fails if there are security advisories for dependencies, but not if the advisory database cannot
/// be reached.
fn advisories_result(is_success: bool, text: &str) -> Result<(), String> {
    if is_success {
        return Ok(());
    }
    if text.contains(UNREACHABLE) {
        out::line("NOT CHECKED: advisories (their database cannot be reached)");
        return Ok(());
    }
    Err(text.to_owned())
}

fn call(arguments: &[&str]) -> Result<Output, String> {
    environment::cargo(arguments)
        .output()
        .map_err(|cause| format!("cannot run cargo: {cause}"))
}

fn text(output: &Output) -> String {
    let streams = [&output.stdout, &output.stderr];
    streams
        .map(|stream| String::from_utf8_lossy(stream).into_owned())
        .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_advisory_fails_ci_but_an_unreachable_database_does_not() {
        assert_eq!(advisories_result(true, "advisories ok"), Ok(()));
        assert_eq!(
            advisories_result(false, "failed to fetch advisory database https://x"),
            Ok(())
        );
        let found = "error[vulnerability]: RUSTSEC-2026-0001";
        assert_eq!(advisories_result(false, found), Err(found.to_owned()));
    }
}
