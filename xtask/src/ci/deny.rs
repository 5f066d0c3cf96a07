//! cargo-deny, where it is installed: licences, bans and sources once more, and the advisories, which need a network.

use std::process::Output;

use crate::{machine, out};

/// What cargo-deny says where it cannot reach the advisories at all.
const UNREACHABLE: &str = "failed to fetch advisory database";

/// Runs it. What cannot be checked is said loudly: without the tool, [`super::supply`] has still checked the rest.
pub(crate) fn check() -> Result<(), String> {
    let is_there = call(&["deny", "--version"])?.status.success();
    if !is_there {
        out::line("NOT CHECKED: advisories, since cargo-deny is not installed");
        return Ok(());
    }
    let rest = call(&[
        "deny", "--color", "never", "check", "bans", "licenses", "sources",
    ])?;
    if !rest.status.success() {
        return Err(said(&rest));
    }
    let advisories = call(&["deny", "--color", "never", "check", "advisories"])?;
    judge(advisories.status.success(), &said(&advisories))
}

/// An advisory that applies is a failure; a database out of reach is not.
fn judge(is_success: bool, said: &str) -> Result<(), String> {
    if is_success {
        return Ok(());
    }
    if said.contains(UNREACHABLE) {
        out::line("NOT CHECKED: advisories, since their database cannot be reached");
        return Ok(());
    }
    Err(said.to_owned())
}

fn call(arguments: &[&str]) -> Result<Output, String> {
    machine::cargo(arguments)
        .output()
        .map_err(|cause| format!("cargo could not be started: {cause}"))
}

fn said(output: &Output) -> String {
    let streams = [&output.stdout, &output.stderr];
    streams
        .map(|stream| String::from_utf8_lossy(stream).into_owned())
        .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advisory_fails_and_a_missing_database_does_not() {
        assert_eq!(judge(true, "advisories ok"), Ok(()));
        assert_eq!(
            judge(false, "failed to fetch advisory database https://x"),
            Ok(())
        );
        let found = "error[vulnerability]: RUSTSEC-2026-0001";
        assert_eq!(judge(false, found), Err(found.to_owned()));
    }
}
