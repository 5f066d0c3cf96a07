//! Packages the crates as `cargo publish` does, and builds them from their packages with the
//! minimum Rust version.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::step::Step;
use crate::metadata::Package;
use crate::{environment, out};

/// Returns the CI step that packages all published crates and builds them with all features.
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

/// Deletes the sources of the workspace's crates that an earlier `cargo package` unpacked in cargo's home directory.
///
/// Cargo unpacks each version of a crate only once, so later packages of the same version would be built from the sources of the
/// earlier package.
pub(crate) fn delete_unpacked(packages: &[Package]) -> Result<(), String> {
    let Some(sources) = cargo_home().map(|home| home.join("registry/src")) else {
        return Ok(());
    };
    for registry in directories(&sources) {
        for unpacked in directories(&registry) {
            let name = unpacked.file_name().unwrap_or_default().to_string_lossy();
            if packages.iter().any(|package| is_version_of(&name, package)) {
                std::fs::remove_dir_all(&unpacked)
                    .map_err(|cause| format!("cannot delete {}: {cause}", unpacked.display()))?;
            }
        }
    }
    Ok(())
}

/// Returns whether the directory name `name` is that of an unpacked version of the published `package`.
fn is_version_of(name: &str, package: &Package) -> bool {
    let rest = name.strip_prefix(package.name.as_str());
    let version = rest.and_then(|rest| rest.strip_prefix('-'));
    package.is_published
        && version.is_some_and(|version| version.starts_with(|first: char| first.is_ascii_digit()))
}

/// Returns the entries of a directory, or none if the directory is missing.
fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Returns the home directory of cargo, below which cargo keeps unpacked crates.
fn cargo_home() -> Option<PathBuf> {
    let home = environment::variable("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| Some(PathBuf::from(environment::variable("HOME")?).join(".cargo")))
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
    fn only_versions_of_published_packages_are_deleted() {
        let published = package("tinkers-core", None);
        assert!(is_version_of("tinkers-core-0.1.0", &published));
        assert!(!is_version_of("tinkers-core-extra-0.1.0", &published));
        assert!(!is_version_of("tokio-1.0.0", &published));
        assert!(!is_version_of("xtask-0.1.0", &package("xtask", None)));
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
