//! The minimum version of Rust is stated in one place and is true on the compiler at hand.

use std::process::{Command, Stdio};

use crate::metadata::Package;
use crate::{machine, out};

/// Checks the statement against the compiler: an older one refuses by itself, the same one proves it with this very
/// run, and for a newer one the stated toolchain is asked, where rustup has it.
pub(crate) fn check(packages: &[Package]) -> Result<(), String> {
    let stated = stated(packages)?;
    let output = Command::new("rustc")
        .arg("--version")
        .output()
        .map_err(|cause| format!("rustc could not be started: {cause}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match compare(&stated, &said)? {
        Standing::Same => Ok(()),
        Standing::Older => Err(format!("rust-version is {stated}, and this is {said}")),
        Standing::Newer => on_toolchain(&stated),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Older,
    Same,
    Newer,
}

/// The one `rust-version` that all packages state.
fn stated(packages: &[Package]) -> Result<String, String> {
    let mut stated: Option<&str> = None;
    for package in packages {
        let Some(version) = package.rust_version.as_deref() else {
            return Err(format!("{} states no rust-version", package.name));
        };
        if stated.is_some_and(|other| other != version) {
            return Err(format!(
                "{} states rust-version {version}, others differ",
                package.name
            ));
        }
        stated = Some(version);
    }
    stated
        .map(str::to_owned)
        .ok_or_else(|| "the workspace has no packages".to_owned())
}

/// How the compiler that prints `said` stands to `stated`.
fn compare(stated: &str, said: &str) -> Result<Standing, String> {
    let release = said.split_whitespace().nth(1).unwrap_or_default();
    let ours = minor(release).ok_or_else(|| format!("cannot read the version in `{said}`"))?;
    let wanted = minor(stated).ok_or_else(|| format!("cannot read rust-version `{stated}`"))?;
    Ok(match ours.cmp(&wanted) {
        std::cmp::Ordering::Less => Standing::Older,
        std::cmp::Ordering::Equal => Standing::Same,
        std::cmp::Ordering::Greater => Standing::Newer,
    })
}

fn minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn on_toolchain(stated: &str) -> Result<(), String> {
    let toolchain = format!("+{stated}");
    let mut cargo = Command::new("cargo");
    cargo.current_dir(machine::root()).stdin(Stdio::null());
    // The toolchain that runs us hides behind these; the one asked for must find its own.
    cargo
        .env_remove("CARGO")
        .env_remove("RUSTC")
        .env_remove("RUSTUP_TOOLCHAIN");
    cargo.env("RUSTUP_AUTO_INSTALL", "0");
    let output = cargo
        .args([toolchain.as_str(), "check", "--workspace", "--all-targets"])
        .output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) if is_absent(&String::from_utf8_lossy(&output.stderr)) => {
            out::line(&format!(
                "NOT CHECKED: rust-version {stated}, no such toolchain is installed"
            ));
            Ok(())
        }
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(cause) => Err(format!("cargo could not be started: {cause}")),
    }
}

/// Whether cargo said that there is no such toolchain, with rustup or without it.
fn is_absent(said: &str) -> bool {
    said.contains("is not installed") || said.contains("no such command: `+")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(version: Option<&str>) -> Package {
        Package {
            rust_version: version.map(str::to_owned),
            ..Package::default()
        }
    }

    #[test]
    fn one_statement_is_taken_and_a_missing_or_second_one_refused() {
        assert_eq!(
            stated(&[package(Some("1.95")), package(Some("1.95"))]),
            Ok("1.95".to_owned())
        );
        assert!(stated(&[package(Some("1.95")), package(Some("1.90"))]).is_err());
        assert!(stated(&[package(Some("1.95")), package(None)]).is_err());
        assert!(stated(&[]).is_err());
    }

    #[test]
    fn compilers_are_compared_by_minor_version() {
        assert_eq!(
            compare("1.95", "rustc 1.95.2 (abc 2026)"),
            Ok(Standing::Same)
        );
        assert_eq!(
            compare("1.95", "rustc 1.100.0-nightly (abc 2026)"),
            Ok(Standing::Newer)
        );
        assert_eq!(
            compare("1.95", "rustc 1.94.0 (abc 2026)"),
            Ok(Standing::Older)
        );
        assert!(compare("1.95", "no compiler").is_err());
        assert!(compare("soon", "rustc 1.95.0").is_err());
    }
}
