//! Which calls of cargo make up `cargo xtask ci`, worked out from the packages of the workspace.

use super::step::Step;
use crate::metadata::{Example, Package};

/// Examples that a check does not run: they take too long, or want a server that is not theirs.
const NOT_RUN: &[&str] = &["pretrain", "train"];

/// Lints beyond the table of the root manifest, and all of them as errors.
const CLIPPY: &str = "-- -D warnings -D clippy::iter_over_hash_type";

/// Every step, in order.
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
        // Doctests and tidy are among the tests.
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

/// The crate with nothing switched on, then with each feature alone.
fn features(package: &Package) -> Vec<Step> {
    let name = &package.name;
    let bare = format!("check --package {name} --no-default-features");
    let mut steps = vec![Step::new(format!("{name} alone"), &bare)];
    for feature in package
        .features
        .iter()
        .filter(|feature| *feature != "default")
    {
        let call = format!("{bare} --features {feature}");
        steps.push(Step::new(format!("{name} with {feature} alone"), &call));
    }
    steps
}

fn example(package: &Package, example: &Example) -> Option<Step> {
    let Package { name, .. } = package;
    if NOT_RUN.contains(&example.name.as_str()) {
        return None;
    }
    let mut call = format!("run --package {name} --example {}", example.name);
    if !example.required_features.is_empty() {
        call.push_str(&format!(
            " --features {}",
            example.required_features.join(",")
        ));
    }
    Some(Step::new(format!("{name} example {}", example.name), &call))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls() -> Vec<String> {
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
        let aside = Package {
            name: "xtask".to_owned(),
            ..Package::default()
        };
        steps(&[facade, aside])
            .iter()
            .map(|step| step.arguments.join(" "))
            .collect()
    }

    #[test]
    fn each_feature_is_checked_alone() {
        let calls = calls();
        for call in [
            "check --package tinkers --no-default-features",
            "check --package tinkers --no-default-features --features local",
        ] {
            assert!(calls.iter().any(|found| found == call), "{call} is not run");
        }
        assert!(!calls.iter().any(|call| call.contains("--features default")));
        assert!(!calls.iter().any(|call| call.contains("--package xtask")));
    }

    #[test]
    fn examples_run_with_what_they_need_and_the_long_ones_do_not() {
        let calls = calls();
        let first = "run --package tinkers --example first --features local";
        assert!(calls.iter().any(|call| call == first));
        assert!(!calls.iter().any(|call| call.contains("pretrain")));
    }

    #[test]
    fn the_tests_are_run_as_the_readme_says() {
        assert_eq!(
            calls()
                .iter()
                .filter(|call| *call == "test --workspace")
                .count(),
            1
        );
    }

    #[test]
    fn warnings_are_errors_in_lints_and_documentation() {
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
        assert_eq!(docs.environment, [("RUSTDOCFLAGS", "-D warnings")]);
    }
}
