//! The rules on manifests: packages must inherit lints and dependencies from the workspace.
//!
//! `cargo metadata` does not report what a package inherits, so this module parses the manifest
//! line by line. A table that it cannot parse is a violation.

use super::Violation;
use super::files::File;

/// The keys of `[package]` that a package must inherit from the workspace.
const INHERITED: &[&str] = &["version", "edition", "rust-version", "license"];

/// Finds lints, package keys and dependencies in the manifest of a package that should be inherited
/// from the workspace but are not.
pub(crate) fn violations(file: &File, is_published: bool) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut table = "";
    let mut has_lints = false;
    let mut inherited = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        let place = format!("{}:{}", file.path, index + 1);
        if line.starts_with('[') {
            table = line.trim();
            if table.contains("dependencies.") {
                found.push(Violation::new(
                    place,
                    "write the dependency on one line, not as a table",
                ));
            }
            continue;
        }
        let Some((key, value)) = line
            .split_once('=')
            .map(|(key, value)| (key.trim(), value.trim()))
        else {
            continue;
        };
        if table == "[lints]" && key == "workspace" && value == "true" {
            has_lints = true;
        }
        if table == "[package]" && value == "true" {
            inherited.extend(key.strip_suffix(".workspace"));
        }
        let is_entry = !line.starts_with(char::is_whitespace) && !line.starts_with('#');
        if table.ends_with("dependencies]") && is_entry {
            found.extend(entry(&place, table, key, value));
        }
    }
    if !has_lints {
        found.push(Violation::new(
            &file.path,
            "has no `[lints] workspace = true`",
        ));
    }
    for key in INHERITED {
        if !inherited.contains(key) {
            found.push(Violation::new(
                &file.path,
                format!("does not inherit `{key}.workspace`"),
            ));
        }
    }
    if is_published && !file.text.contains("readme = \"README.md\"") {
        found.push(Violation::new(
            &file.path,
            "does not set `readme = \"README.md\"`",
        ));
    }
    found
}

fn entry(place: &str, table: &str, key: &str, value: &str) -> Option<Violation> {
    let is_inherited = (key.ends_with(".workspace") && value == "true")
        || value.replace(' ', "").contains("workspace=true");
    // Dev-dependencies on crates of the workspace have no version, so they cannot be inherited.
    let is_path = table == "[dev-dependencies]" && value.contains("path =");
    if is_inherited || is_path {
        return None;
    }
    let what = format!("`{key}` is not inherited from [workspace.dependencies]");
    Some(Violation::new(place, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "[package]\nname = \"a\"\nversion.workspace = true\nedition.workspace = true\n\
        rust-version.workspace = true\nlicense.workspace = true\nreadme = \"README.md\"\n";
    const LINTS: &str = "[lints]\nworkspace = true\n";

    fn found(text: &str) -> Vec<String> {
        let file = File::new("crates/a/Cargo.toml", text);
        violations(&file, true)
            .iter()
            .map(|violation| violation.what.clone())
            .collect()
    }

    #[test]
    fn inherited_keys_and_dependencies_have_no_violations() {
        let tables = "[dependencies]\nbytes.workspace = true\n# why\n\
            tokio = { workspace = true, features = [\n    \"rt\",\n] }\n\
            [dev-dependencies]\ntinkers-local = { path = \"../tinkers-local\" }\n\
            [features]\nlocal = [\"dep:x\"]\n";
        assert_eq!(
            found(&format!("{HEAD}{LINTS}{tables}")),
            Vec::<String>::new()
        );
    }

    #[test]
    fn dependency_with_a_version_in_the_package_is_a_violation() {
        for table in [
            "[dependencies]",
            "[dev-dependencies]",
            "[target.'cfg(unix)'.dependencies]",
        ] {
            let text = format!("{HEAD}{LINTS}{table}\nbytes = \"1\"\n");
            assert_eq!(found(&text).len(), 1, "{table}");
        }
        let path = "[dependencies]\nb = { path = \"../b\" }\n";
        assert_eq!(found(&format!("{HEAD}{LINTS}{path}")).len(), 1);
    }

    #[test]
    fn dependency_in_a_separate_toml_table_is_a_violation() {
        let table = "[dependencies.bytes]\nworkspace = true\n";
        assert!(found(&format!("{HEAD}{LINTS}{table}"))[0].contains("one line"));
    }

    #[test]
    fn missing_lints_and_package_keys_not_inherited_are_violations() {
        assert!(found(HEAD)[0].contains("[lints]"));
        let own = HEAD.replace("edition.workspace = true", "edition = \"2021\"");
        assert!(found(&format!("{own}{LINTS}"))[0].contains("edition"));
        let bare = HEAD.replace("readme = \"README.md\"\n", "");
        assert!(found(&format!("{bare}{LINTS}"))[0].contains("README"));
    }
}
