//! Reads the parts of `cargo metadata` that the tasks use.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use crate::environment;

/// The metadata of the workspace: its packages and its target directory.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The packages of the workspace, in alphabetical order.
    pub(crate) packages: Vec<Package>,
    /// The path of the target directory.
    pub(crate) target: PathBuf,
}

/// A package of the workspace.
#[derive(Debug, Clone, Default)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// The directory of the package, relative to the workspace root and with forward slashes.
    pub(crate) directory: String,
    pub(crate) rust_version: Option<String>,
    pub(crate) is_published: bool,
    pub(crate) has_library: bool,
    /// The names of the examples.
    pub(crate) examples: Vec<String>,
    pub(crate) dependencies: Vec<Dependency>,
    /// The names of the features, including `default` and those of optional dependencies.
    pub(crate) features: Vec<String>,
}

/// A dependency of a package.
#[derive(Debug, Clone)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Whether the manifest gives a path for the dependency. This is only the case for dependencies
    /// inside the workspace.
    pub(crate) is_path: bool,
    /// The version requirement. It is `*` if the manifest gives no version.
    pub(crate) requirement: String,
}

/// The kind of a dependency in a manifest: normal, build or dev.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal,
    Build,
    Dev,
}

/// Reads the metadata of the workspace from cargo.
pub(crate) fn workspace() -> Result<Workspace, String> {
    let metadata = cargo_json(&["metadata", "--no-deps", "--format-version", "1"])?;
    let root = metadata["workspace_root"].as_str().unwrap_or_default();
    let mut packages: Vec<Package> = list(&metadata["packages"])
        .map(|raw| package(raw, root))
        .collect();
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Workspace {
        packages,
        target: PathBuf::from(metadata["target_directory"].as_str().unwrap_or("target")),
    })
}

/// Returns the licence and the source of each package that does not belong to the workspace. The
/// keys have the form `NAME VERSION`.
pub(crate) fn external_packages() -> Result<BTreeMap<String, (String, String)>, String> {
    let metadata = cargo_json(&["metadata", "--locked", "--format-version", "1"])?;
    let packages = list(&metadata["packages"]).filter_map(|raw| {
        let source = raw["source"].as_str()?;
        let licence = raw["license"].as_str().unwrap_or_default();
        let name = format!("{} {}", text(&raw["name"]), text(&raw["version"]));
        Some((name, (licence.to_owned(), source.to_owned())))
    });
    Ok(packages.collect())
}

fn cargo_json(arguments: &[&str]) -> Result<Value, String> {
    let output = environment::cargo(arguments)
        .output()
        .map_err(|cause| format!("cannot run cargo metadata: {cause}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("cargo metadata failed: {stderr}"));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|cause| format!("cannot parse the output of cargo metadata: {cause}"))
}

fn package(raw: &Value, root: &str) -> Package {
    let manifest = text(&raw["manifest_path"]).replace('\\', "/");
    let directory = manifest
        .strip_prefix(&root.replace('\\', "/"))
        .unwrap_or(&manifest)
        .trim_matches('/')
        .trim_end_matches("/Cargo.toml")
        .to_owned();
    let is_kind = |target: &Value, kind: &str| list(&target["kind"]).any(|value| value == kind);
    let examples = list(&raw["targets"]).filter(|target| is_kind(target, "example"));
    Package {
        name: text(&raw["name"]),
        directory,
        rust_version: raw["rust_version"].as_str().map(str::to_owned),
        // `publish = false` is reported as an empty list of registries. If the key is missing, null
        // is reported.
        is_published: raw["publish"].is_null(),
        has_library: list(&raw["targets"]).any(|target| is_kind(target, "lib")),
        examples: examples.map(|target| text(&target["name"])).collect(),
        dependencies: list(&raw["dependencies"]).map(dependency).collect(),
        features: raw["features"]
            .as_object()
            .map(|features| features.keys().cloned().collect())
            .unwrap_or_default(),
    }
}

fn dependency(raw: &Value) -> Dependency {
    Dependency {
        name: text(&raw["name"]),
        kind: match raw["kind"].as_str() {
            Some("dev") => Kind::Dev,
            Some("build") => Kind::Build,
            _ => Kind::Normal,
        },
        is_path: raw["path"].is_string(),
        requirement: text(&raw["req"]),
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_metadata_has_targets_and_dependencies() {
        let raw = serde_json::json!({
            "name": "a", "manifest_path": "/x/crates/a/Cargo.toml", "publish": [], "rust_version": "1.95",
            "features": {"default": [], "local": []},
            "targets": [
                {"name": "a", "kind": ["lib"]},
                {"name": "show", "kind": ["example"], "required-features": ["local"]},
            ],
            "dependencies": [
                {"name": "bytes", "kind": null, "req": "^1"},
                {"name": "b", "kind": "dev", "req": "*", "path": "/x/crates/b"},
            ],
        });
        let package = package(&raw, "/x");
        assert_eq!(package.directory, "crates/a");
        assert!(package.has_library && !package.is_published);
        assert_eq!(package.dependencies[0].kind, Kind::Normal);
        assert!(package.dependencies[1].is_path);
        assert_eq!(package.dependencies[1].kind, Kind::Dev);
    }

    #[test]
    fn metadata_of_the_workspace_is_parsed() {
        let workspace = workspace().unwrap();
        let package = workspace
            .packages
            .iter()
            .find(|package| package.name == "xtask")
            .unwrap();
        assert_eq!(package.directory, "xtask");
        assert!(!package.is_published && package.has_library);
        assert!(
            package
                .dependencies
                .iter()
                .any(|dependency| dependency.name == "serde_json")
        );
    }
}
