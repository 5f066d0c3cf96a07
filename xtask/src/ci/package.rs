//! Packages the crates as `cargo publish` does, and builds them from their packages with the
//! minimum Rust version.

use std::process::{Command, Stdio};

use super::step::Step;
use crate::metadata::Package;
use crate::out;

/// Returns the step that packages all published crates and builds them with all features.
///
/// # Errors
/// Fails if the packages do not all declare the same `rust-version`.
pub(crate) fn step(packages: &[Package]) -> Result<Step, String> {
    let version = declared_version(packages)?;
    let mut command = String::from("package --all-features --allow-dirty --locked");
    for package in packages.iter().filter(|package| package.is_published) {
        command.push_str(" --package ");
        command.push_str(&package.name);
    }
    let Some(compiler) = compiler(&version) else {
        out::line(&format!(
            "NOT CHECKED: rust-version {version} (toolchain is not installed)"
        ));
        return Ok(Step::new("packages", &command));
    };
    let name = format!("packages, Rust {version}");
    Ok(Step::new(name, &command).with("RUSTC", &compiler))
}

/// Returns the `rust-version` that all packages declare. Returns an error if they declare different
/// versions.
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

/// Returns the path of `rustc` in the toolchain of the Rust version `version`. Returns `None` if
/// the toolchain or rustup is missing.
fn compiler(version: &str) -> Option<String> {
    let output = Command::new("rustup")
        .args(["which", "--toolchain", version, "rustc"])
        .env("RUSTUP_AUTO_INSTALL", "0")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| path.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: Option<&str>) -> Package {
        Package {
            name: name.to_owned(),
            is_published: name != "xtask",
            rust_version: version.map(str::to_owned),
            ..Package::default()
        }
    }

    #[test]
    fn missing_or_different_rust_versions_are_errors() {
        let declared = |versions: &[Option<&str>]| {
            let packages: Vec<_> = versions.iter().map(|one| package("a", *one)).collect();
            declared_version(&packages)
        };
        assert_eq!(
            declared(&[Some("1.95"), Some("1.95")]),
            Ok("1.95".to_owned())
        );
        assert!(declared(&[Some("1.95"), Some("1.90")]).is_err());
        assert!(declared(&[Some("1.95"), None]).is_err());
        assert!(declared(&[]).is_err());
    }

    #[test]
    fn published_crates_are_packaged_with_all_features() {
        let packages = [
            package("tinkers", Some("0.0")),
            package("xtask", Some("0.0")),
        ];
        let step = step(&packages).unwrap();
        let command = step.arguments.join(" ");
        assert!(command.contains("package --all-features") && command.contains("tinkers"));
        assert!(!command.contains("xtask"));
    }
}
