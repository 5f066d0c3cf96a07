//! What `cargo metadata` says of the workspace, reduced to what the rules ask for.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use crate::machine;

/// The workspace as cargo sees it.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The packages of the workspace, by name.
    pub(crate) packages: Vec<Package>,
    /// Where cargo builds.
    pub(crate) target: PathBuf,
}

/// One package of the workspace.
#[derive(Debug, Clone, Default)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// Its directory, relative to the root, with forward slashes.
    pub(crate) directory: String,
    pub(crate) rust_version: Option<String>,
    pub(crate) is_published: bool,
    pub(crate) has_library: bool,
    pub(crate) examples: Vec<Example>,
    pub(crate) dependencies: Vec<Dependency>,
    /// Its features, `default` and those of optional dependencies included.
    pub(crate) features: Vec<String>,
}

/// One example of a package and the features without which it is not built.
#[derive(Debug, Clone, Default)]
pub(crate) struct Example {
    pub(crate) name: String,
    pub(crate) required_features: Vec<String>,
}

/// One line of a dependency table.
#[derive(Debug, Clone)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Whether it names a directory of this machine, as crates of the workspace do.
    pub(crate) is_path: bool,
    /// The version requirement; `*` where none is written.
    pub(crate) requirement: String,
}

/// The table that a dependency stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal,
    Build,
    Dev,
}

/// Asks cargo for the packages of the workspace.
pub(crate) fn workspace() -> Result<Workspace, String> {
    let all = call(&["metadata", "--no-deps", "--format-version", "1"])?;
    let root = all["workspace_root"].as_str().unwrap_or_default();
    let mut packages: Vec<Package> = list(&all["packages"])
        .map(|raw| package(raw, root))
        .collect();
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Workspace {
        packages,
        target: PathBuf::from(all["target_directory"].as_str().unwrap_or("target")),
    })
}

/// The licence that each package outside the workspace states, by `name version`; and the registry it comes from.
pub(crate) fn outside() -> Result<BTreeMap<String, (String, String)>, String> {
    let all = call(&["metadata", "--locked", "--format-version", "1"])?;
    let packages = list(&all["packages"]).filter_map(|raw| {
        let source = raw["source"].as_str()?;
        let licence = raw["license"].as_str().unwrap_or_default();
        let name = format!("{} {}", text(&raw["name"]), text(&raw["version"]));
        Some((name, (licence.to_owned(), source.to_owned())))
    });
    Ok(packages.collect())
}

fn call(arguments: &[&str]) -> Result<Value, String> {
    let output = machine::cargo(arguments)
        .output()
        .map_err(|cause| format!("cargo metadata could not be started: {cause}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("cargo metadata failed: {said}"));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|cause| format!("cargo metadata printed no JSON: {cause}"))
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
        // `publish = false` is an empty list of registries; no limit at all is null.
        is_published: raw["publish"].is_null(),
        has_library: list(&raw["targets"]).any(|target| is_kind(target, "lib")),
        examples: examples.map(example).collect(),
        dependencies: list(&raw["dependencies"]).map(dependency).collect(),
        features: raw["features"]
            .as_object()
            .map(|features| features.keys().cloned().collect())
            .unwrap_or_default(),
    }
}

fn example(raw: &Value) -> Example {
    Example {
        name: text(&raw["name"]),
        required_features: list(&raw["required-features"]).map(text).collect(),
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
    fn a_package_is_read_with_its_tables_targets_and_place() {
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
        assert_eq!(package.examples[0].required_features, ["local"]);
        assert_eq!(package.dependencies[0].kind, Kind::Normal);
        assert!(package.dependencies[1].is_path);
        assert_eq!(package.dependencies[1].kind, Kind::Dev);
    }

    #[test]
    fn the_real_workspace_is_read() {
        let workspace = workspace().unwrap();
        let us = workspace
            .packages
            .iter()
            .find(|package| package.name == "xtask")
            .unwrap();
        assert_eq!(us.directory, "xtask");
        assert!(!us.is_published && us.has_library);
        assert!(
            us.dependencies
                .iter()
                .any(|dependency| dependency.name == "serde_json")
        );
    }
}
