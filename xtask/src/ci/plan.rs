//! Determines the cargo commands of `cargo xtask ci` from the packages of the workspace.

use super::step::Step;
use crate::metadata::{Example, Package};

/// The examples that are not run, because they take too long or need an external server.
const SKIPPED_EXAMPLES: &[&str] = &["pretrain", "train"];

/// The arguments for clippy: lints in addition to those of the root manifest, and warnings as
/// errors.
const CLIPPY: &str = "-- -D warnings -D clippy::iter_over_hash_type";

/// Returns all cargo commands in the order of execution.
pub(crate) fn steps(packages: &[Package]) -> Vec<Step> {
    let mut steps = vec![
        Step::new("format", "fmt --all --check"),
        Step::new(
            "clippy",
            &format!("clippy --workspace --all-targets {CLIPPY}"),
        ),
        Step::new(
            "clippy, all features",
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
    for package in packages {
        steps.extend(
            package
                .examples
                .iter()
                .filter_map(|one| example(package, one)),
        );
    }
    steps
}

/// Returns the steps that check a crate without features and with each feature separately.
fn features(package: &Package) -> Vec<Step> {
    let name = &package.name;
    let bare = format!("check --package {name} --no-default-features");
    let mut steps = vec![Step::new(format!("{name} without features"), &bare)];
    for feature in package
        .features
        .iter()
        .filter(|feature| *feature != "default")
    {
        let command = format!("{bare} --features {feature}");
        steps.push(Step::new(format!("{name} with only {feature}"), &command));
    }
    steps
}

fn example(package: &Package, example: &Example) -> Option<Step> {
    let Package { name, .. } = package;
    if SKIPPED_EXAMPLES.contains(&example.name.as_str()) {
        return None;
    }
    let mut command = format!("run --package {name} --example {}", example.name);
    if !example.required_features.is_empty() {
        command.push_str(&format!(
            " --features {}",
            example.required_features.join(",")
        ));
    }
    Some(Step::new(
        format!("{name} example {}", example.name),
        &command,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands() -> Vec<String> {
        let facade = Package {
            name: "tinkers".to_owned(),
            is_published: true,
            features: vec!["default".to_owned(), "local".to_owned()],
            examples: vec![
                Example {
                    name: "first".to_owned(),
                    required_features: vec!["local".to_owned()],
                },
                Example {
                    name: "pretrain".to_owned(),
                    ..Example::default()
                },
            ],
            ..Package::default()
        };
        let unpublished = Package {
            name: "xtask".to_owned(),
            ..Package::default()
        };
        steps(&[facade, unpublished])
            .iter()
            .map(|step| step.arguments.join(" "))
            .collect()
    }

    #[test]
    fn each_feature_is_checked_separately() {
        let commands = commands();
        for command in [
            "check --package tinkers --no-default-features",
            "check --package tinkers --no-default-features --features local",
        ] {
            assert!(
                commands.iter().any(|found| found == command),
                "{command} is not run"
            );
        }
        let contains = |text: &str| commands.iter().any(|command| command.contains(text));
        assert!(!contains("--features default") && !contains("--package xtask"));
    }

    #[test]
    fn examples_run_with_their_required_features() {
        let commands = commands();
        let first = "run --package tinkers --example first --features local";
        assert!(commands.iter().any(|command| command == first));
        assert!(!commands.iter().any(|command| command.contains("pretrain")));
    }

    #[test]
    fn workspace_tests_run_once() {
        assert_eq!(
            commands()
                .iter()
                .filter(|command| *command == "test --workspace")
                .count(),
            1
        );
    }

    #[test]
    fn clippy_and_rustdoc_warnings_are_errors() {
        let steps = steps(&[]);
        let clippy: Vec<_> = steps
            .iter()
            .filter(|step| step.arguments[0] == "clippy")
            .collect();
        assert_eq!(clippy.len(), 2);
        assert!(
            clippy
                .iter()
                .all(|step| step.arguments.join(" ").contains("-D warnings"))
        );
        let docs = steps
            .iter()
            .find(|step| step.arguments[0] == "doc")
            .unwrap();
        let expected = ("RUSTDOCFLAGS", "-D warnings".to_owned());
        assert_eq!(docs.environment, [expected]);
    }
}
