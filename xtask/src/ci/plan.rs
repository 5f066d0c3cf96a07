//! Determines the cargo commands of `cargo xtask ci` from the packages of the workspace.

use std::path::Path;

use super::step::Step;
use crate::metadata::Package;

/// The examples that CI does not run, because they take too long or need an external server.
const SKIPPED_EXAMPLES: &[&str] = &["pretrain", "train"];

/// The additional arguments for clippy: warnings as errors, and a lint that the root manifest does
/// not list.
const CLIPPY: &str = "-- -D warnings -D clippy::iter_over_hash_type";

/// Returns all steps of the CI checks in the order in which they run. `target` is the target
/// directory of cargo.
pub(crate) fn steps(packages: &[Package], target: &Path) -> Vec<Step> {
    let mut steps = vec![
        Step::new("format", "fmt --all --check"),
        Step::new(
            "clippy",
            &format!("clippy --workspace --all-targets --all-features {CLIPPY}"),
        ),
        // The tests include doctests and tidy.
        Step::new("tests", "test --workspace"),
        Step::new("docs", "doc --workspace --no-deps --all-features")
            .with("RUSTDOCFLAGS", "-D warnings"),
    ];
    for package in packages.iter().filter(|package| package.is_published) {
        steps.extend(features(package));
    }
    // All at once: cargo would build the dependencies of each package again, with the features of this package only.
    steps.push(Step::new("build examples", "build --workspace --examples"));
    let directory = target.join("debug/examples");
    for Package { name, examples, .. } in packages {
        for example in examples {
            if !SKIPPED_EXAMPLES.contains(&example.as_str()) {
                let program = format!("{example}{}", std::env::consts::EXE_SUFFIX);
                let label = format!("{name} example {example}");
                steps.push(Step::program(label, directory.join(program)));
            }
        }
    }
    steps
}

/// Returns the steps that lint the library and programs of one crate without features and with each
/// of its features separately.
fn features(package: &Package) -> Vec<Step> {
    let name = &package.name;
    let bare = format!("clippy --package {name} --no-default-features");
    let mut steps = vec![Step::new(
        format!("{name} without features"),
        &format!("{bare} {CLIPPY}"),
    )];
    for feature in package
        .features
        .iter()
        .filter(|feature| *feature != "default")
    {
        let command = format!("{bare} --features {feature} {CLIPPY}");
        steps.push(Step::new(format!("{name} with only {feature}"), &command));
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands() -> Vec<String> {
        let facade = Package {
            name: "tinkers".to_owned(),
            is_published: true,
            features: vec!["default".to_owned(), "local".to_owned()],
            examples: vec!["first".to_owned(), "pretrain".to_owned()],
            ..Package::default()
        };
        let unpublished = Package {
            name: "xtask".to_owned(),
            ..Package::default()
        };
        steps(&[facade, unpublished], Path::new("target"))
            .iter()
            .map(Step::shown)
            .collect()
    }

    #[test]
    fn ci_checks_each_cargo_feature_separately() {
        let commands = commands();
        for command in [
            "cargo clippy --package tinkers --no-default-features -- -D",
            "cargo clippy --package tinkers --no-default-features --features local -- -D",
        ] {
            assert!(
                commands.iter().any(|found| found.starts_with(command)),
                "{command} is not run"
            );
        }
        let contains = |text: &str| commands.iter().any(|command| command.contains(text));
        assert!(!contains("--features default") && !contains("--package xtask"));
    }

    #[test]
    fn ci_runs_examples_after_building_them() {
        let commands = commands();
        let position = |text: &str| commands.iter().position(|command| command.contains(text));
        let built = position("cargo build --workspace --examples").unwrap();
        assert!(built < position("debug/examples/first").unwrap());
        assert!(!commands.iter().any(|command| command.contains("pretrain")));
    }

    #[test]
    fn ci_runs_the_workspace_tests_once() {
        assert_eq!(
            commands()
                .iter()
                .filter(|command| *command == "cargo test --workspace")
                .count(),
            1
        );
    }

    #[test]
    fn clippy_and_rustdoc_warnings_fail_ci() {
        let steps = steps(&[], Path::new("target"));
        let clippy: Vec<_> = steps
            .iter()
            .filter(|step| step.shown().starts_with("cargo clippy"))
            .collect();
        assert_eq!(clippy.len(), 1);
        assert!(
            clippy
                .iter()
                .all(|step| step.arguments.join(" ").contains("-D warnings"))
        );
        let docs = steps
            .iter()
            .find(|step| step.shown().starts_with("cargo doc"))
            .unwrap();
        let expected = ("RUSTDOCFLAGS", "-D warnings".to_owned());
        assert_eq!(docs.environment, [expected]);
    }
}
