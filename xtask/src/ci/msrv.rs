//! Checks that all packages declare the same minimum Rust version, and that it compiles.

use std::cmp::Ordering;
use std::process::{Command, Stdio};

use crate::metadata::Package;
use crate::{environment, out};

/// Checks `rust-version`. If the current compiler is newer, runs `cargo check` with the declared toolchain, if it is installed.
pub(crate) fn check(packages: &[Package]) -> Result<(), String> {
    let declared = declared_version(packages)?;
    let output = Command::new("rustc")
        .arg("--version")
        .output()
        .map_err(|cause| format!("cannot run rustc: {cause}"))?;
    let compiler = String::from_utf8_lossy(&output.stdout).into_owned();
    match compare(&compiler, &declared)? {
        Ordering::Equal => Ok(()),
        Ordering::Less => Err(format!(
            "rust-version is {declared}, but the compiler is older: {compiler}"
        )),
        Ordering::Greater => check_with_toolchain(&declared),
    }
}

/// Returns the `rust-version` of all packages.
fn declared_version(packages: &[Package]) -> Result<String, String> {
    let mut declared: Option<&str> = None;
    for package in packages {
        let Some(version) = package.rust_version.as_deref() else {
            return Err(format!("{} declares no rust-version", package.name));
        };
        if declared.is_some_and(|other| other != version) {
            return Err(format!(
                "{} declares rust-version {version}, others differ",
                package.name
            ));
        }
        declared = Some(version);
    }
    declared
        .map(str::to_owned)
        .ok_or_else(|| "the workspace has no packages".to_owned())
}

/// Compares the version in the output of `rustc --version` with a declared version, up to the minor version.
fn compare(compiler: &str, declared: &str) -> Result<Ordering, String> {
    let release = compiler.split_whitespace().nth(1).unwrap_or_default();
    let actual =
        minor(release).ok_or_else(|| format!("cannot parse the version in `{compiler}`"))?;
    let minimum =
        minor(declared).ok_or_else(|| format!("cannot parse rust-version `{declared}`"))?;
    Ok(actual.cmp(&minimum))
}

fn minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn check_with_toolchain(version: &str) -> Result<(), String> {
    let toolchain = format!("+{version}");
    let mut cargo = Command::new("cargo");
    cargo.current_dir(environment::root()).stdin(Stdio::null());
    // These select the current toolchain instead of the given one.
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
        Ok(output) if is_missing_toolchain(&String::from_utf8_lossy(&output.stderr)) => {
            out::line(&format!(
                "NOT CHECKED: rust-version {version} (toolchain is not installed)"
            ));
            Ok(())
        }
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(cause) => Err(format!("cannot run cargo: {cause}")),
    }
}

/// Returns whether the error says that the toolchain is missing, with or without rustup.
fn is_missing_toolchain(stderr: &str) -> bool {
    stderr.contains("is not installed") || stderr.contains("no such command: `+")
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
    fn missing_or_different_rust_versions_are_errors() {
        assert_eq!(
            declared_version(&[package(Some("1.95")), package(Some("1.95"))]),
            Ok("1.95".to_owned())
        );
        assert!(declared_version(&[package(Some("1.95")), package(Some("1.90"))]).is_err());
        assert!(declared_version(&[package(Some("1.95")), package(None)]).is_err());
        assert!(declared_version(&[]).is_err());
    }

    #[test]
    fn compilers_are_compared_by_minor_version() {
        assert_eq!(
            compare("rustc 1.95.2 (abc 2026)", "1.95"),
            Ok(Ordering::Equal)
        );
        assert_eq!(
            compare("rustc 1.100.0-nightly (abc 2026)", "1.95"),
            Ok(Ordering::Greater)
        );
        assert_eq!(
            compare("rustc 1.94.0 (abc 2026)", "1.95"),
            Ok(Ordering::Less)
        );
        assert!(compare("no compiler", "1.95").is_err());
        assert!(compare("rustc 1.95.0", "soon").is_err());
    }
}
