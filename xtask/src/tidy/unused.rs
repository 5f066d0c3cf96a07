//! The rule on unused dependencies: the sources of each package must contain the names of its
//! dependencies.

use super::Violation;
use super::files::File;
use super::lexer::code_only;
use crate::metadata::{Kind, Package};

/// Dependencies that are used although their names do not occur in the sources, each with the
/// package that uses it.
const UNNAMED: &[(&str, &str)] = &[
    // It is listed for its feature avx512, which the matrix products of ndarray use.
    ("tinkers-engine", "matrixmultiply"),
];

/// Finds dependencies that manifests list but no source uses, in packages and in
/// `[workspace.dependencies]`.
pub(crate) fn violations(packages: &[Package], files: &[File]) -> Vec<Violation> {
    let mut found = inherited_by_none(packages, files);
    for package in packages {
        let directory = format!("{}/", package.directory);
        let sources = |is_library: bool| {
            let of_package = files.iter().filter_map(|file| {
                let path = file.path.strip_prefix(&directory)?;
                let is_source = path.starts_with("src/") || path == "build.rs";
                (path.ends_with(".rs") && (is_source || !is_library)).then(|| code_only(&file.text))
            });
            of_package.collect::<String>()
        };
        let (library, all) = (sources(true), sources(false));
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            let code = match dependency.kind {
                Kind::Dev => &all,
                Kind::Normal | Kind::Build => &library,
            };
            let is_exempt = UNNAMED.contains(&(package.name.as_str(), name));
            match (is_exempt, has_word(code, &name.replace('-', "_"))) {
                (false, false) => {
                    let what = match has_word(&all, &name.replace('-', "_")) {
                        true => format!(
                            "only tests and examples use {name}: list it under [dev-dependencies]"
                        ),
                        false => format!("no source uses the dependency {name}: remove it"),
                    };
                    found.push(Violation::new(&package.name, what));
                }
                (true, true) => {
                    let what = format!("uses {name}: remove it from UNNAMED");
                    found.push(Violation::new(&package.name, what));
                }
                _ => {}
            }
        }
    }
    found
}

/// Finds entries of `[workspace.dependencies]` that the manifest of no package inherits.
fn inherited_by_none(packages: &[Package], files: &[File]) -> Vec<Violation> {
    let root = files.iter().find(|file| file.path == "Cargo.toml");
    let lines = root.map_or("", |root| root.text.as_str()).lines();
    let table = lines
        .skip_while(|line| *line != "[workspace.dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['));
    let names = table
        .filter_map(|line| Some(line.split_once(" = ")?.0))
        .filter(|name| !name.starts_with('#'));
    let is_listed = |name: &str| {
        let mut all = packages.iter().flat_map(|package| &package.dependencies);
        all.any(|dependency| dependency.name == name)
    };
    names
        .filter(|name| !is_listed(name))
        .map(|name| {
            Violation::new(
                "Cargo.toml",
                format!("no package inherits {name}: remove it"),
            )
        })
        .collect()
}

fn has_word(code: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        !code[..at].ends_with(is_part) && !code[at + word.len()..].starts_with(is_part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Dependency;

    fn found(name: &str, dependencies: &[(&str, Kind)], files: &[(&str, &str)]) -> Vec<String> {
        let package = Package {
            name: name.to_owned(),
            directory: format!("crates/{name}"),
            dependencies: dependencies
                .iter()
                .map(|(name, kind)| Dependency {
                    name: (*name).to_owned(),
                    kind: *kind,
                    is_path: false,
                    requirement: "^1".to_owned(),
                })
                .collect(),
            ..Package::default()
        };
        let files: Vec<File> = files
            .iter()
            .map(|(path, text)| File::new(path, text))
            .collect();
        let found = violations(&[package], &files);
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn used_dependencies_are_no_violations() {
        let files = [
            ("crates/a/src/lib.rs", "use serde_json::Value;"),
            ("crates/a/tests/t.rs", "fn f() { proptest::p() }"),
        ];
        let listed = [("serde-json", Kind::Normal), ("proptest", Kind::Dev)];
        assert_eq!(found("a", &listed, &files), [""; 0]);
    }

    #[test]
    fn unused_dependency_is_a_violation() {
        let files = [
            (
                "crates/a/src/lib.rs",
                "// bytes\nuse bytes_extra::B; fn f() { \"bytes\" }",
            ),
            ("crates/b/src/lib.rs", "use bytes::Bytes;"),
        ];
        for kind in [Kind::Normal, Kind::Build, Kind::Dev] {
            let told = found("a", &[("bytes", kind)], &files);
            assert_eq!(told, ["a: no source uses the dependency bytes: remove it"]);
        }
    }

    #[test]
    fn dependency_used_only_in_tests_must_be_a_dev_dependency() {
        let files = [("crates/a/tests/t.rs", "use bytes::Bytes;")];
        let told = found("a", &[("bytes", Kind::Normal)], &files);
        assert!(told[0].contains("[dev-dependencies]"), "{told:?}");
    }

    #[test]
    fn needless_exemption_of_a_used_dependency_is_a_violation() {
        let listed = [("matrixmultiply", Kind::Normal)];
        assert_eq!(found("tinkers-engine", &listed, &[]), [""; 0]);
        let files = [(
            "crates/tinkers-engine/src/lib.rs",
            "use matrixmultiply::sgemm;",
        )];
        assert!(found("tinkers-engine", &listed, &files)[0].contains("UNNAMED"));
    }

    #[test]
    fn workspace_dependency_that_no_package_inherits_is_a_violation() {
        let root = "[workspace]\n\n[workspace.dependencies]\n# why = not\nbytes = \"1\"\nhalf = \"2\"\n\n[profile.dev]\ndebug = true\n";
        let files = [
            ("Cargo.toml", root),
            ("crates/a/src/lib.rs", "use bytes::Bytes;"),
        ];
        let told = found("a", &[("bytes", Kind::Normal)], &files);
        assert_eq!(told, ["Cargo.toml: no package inherits half: remove it"]);
    }
}
