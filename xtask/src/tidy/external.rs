//! The rule on external crates: some may be used only by certain crates, and others not at all.

use super::Violation;
use crate::metadata::{Kind, Package};

/// Names of external crates, each with the only workspace crates that may depend on it. A `*` at
/// the end of a name stands for any suffix.
const RESERVED: &[(&str, &[&str])] = &[
    ("hyper", &["tinkers-transport", "tinkers-local"]),
    ("hyper-util", &["tinkers-transport", "tinkers-local"]),
    ("http-body-util", &["tinkers-transport", "tinkers-local"]),
    ("hyper-rustls", &["tinkers-transport"]),
    ("rustls", &["tinkers-transport"]),
    ("secrecy", &["tinkers-transport", "tinkers-auth"]),
    ("candle-*", &["tinkers-engine"]),
    ("prost", &["tinkers-wire"]),
    ("clap", &["tinkers-cli"]),
    ("indicatif", &["tinkers-cli"]),
    ("comfy-table", &["tinkers-cli"]),
    ("arc-swap", &["tinkers-registry", "tinkers-session"]),
    ("reqwest", &[]),
    ("openssl", &[]),
    ("native-tls", &[]),
];

/// The workspace crates that must not depend on tokio, except in their tests.
const WITHOUT_RUNTIME: &[&str] = &[
    "tinkers-wire",
    "tinkers-limits",
    "tinkers-registry",
    "tinkers-core",
];

/// Finds dependencies on external crates that the rules of this module do not allow.
///
/// Packages in `tests/` may use external crates that are reserved for certain workspace crates,
/// because some tests compare the client with the plain library. They must not use external crates
/// that are forbidden for all crates.
pub(crate) fn violations(packages: &[Package]) -> Vec<Violation> {
    let mut found = Vec::new();
    for package in packages {
        for dependency in &package.dependencies {
            if dependency.is_path {
                continue;
            }
            let name = dependency.name.as_str();
            let is_test = dependency.kind == Kind::Dev;
            if let Some(allowed) = allowed(name)
                && !allowed.contains(&package.name.as_str())
                && (allowed.is_empty() || !package.directory.starts_with("tests/"))
            {
                found.push(Violation::new(
                    &package.name,
                    format!("must not depend on {name}; allowed for {allowed:?}"),
                ));
            }
            if name == "tokio" && !is_test && WITHOUT_RUNTIME.contains(&package.name.as_str()) {
                found.push(Violation::new(
                    &package.name,
                    "must work without a runtime and must not depend on tokio",
                ));
            }
        }
    }
    found
}

fn allowed(name: &str) -> Option<&'static [&'static str]> {
    let matches = |pattern: &str| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    };
    RESERVED
        .iter()
        .find(|(pattern, _)| matches(pattern))
        .map(|(_, allowed)| *allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Dependency;

    fn found(package: &str, directory: &str, dependency: &str, kind: Kind) -> usize {
        let dependency = Dependency {
            name: dependency.to_owned(),
            kind,
            is_path: false,
            requirement: "^1".to_owned(),
        };
        violations(&[Package {
            name: package.to_owned(),
            directory: directory.to_owned(),
            dependencies: vec![dependency],
            ..Package::default()
        }])
        .len()
    }

    #[test]
    fn allowed_external_dependencies_have_no_violations() {
        assert_eq!(
            found(
                "tinkers-transport",
                "crates/tinkers-transport",
                "hyper",
                Kind::Normal
            ),
            0
        );
        assert_eq!(
            found(
                "tinkers-engine",
                "crates/tinkers-engine",
                "candle-core",
                Kind::Normal
            ),
            0
        );
        assert_eq!(
            found(
                "tinkers-futures",
                "crates/tinkers-futures",
                "tokio",
                Kind::Normal
            ),
            0
        );
    }

    #[test]
    fn reserved_external_crates_are_violations_even_as_dev_dependencies() {
        assert_eq!(
            found(
                "tinkers-session",
                "crates/tinkers-session",
                "hyper",
                Kind::Normal
            ),
            1
        );
        assert_eq!(
            found(
                "tinkers-session",
                "crates/tinkers-session",
                "hyper-util",
                Kind::Dev
            ),
            1
        );
        assert_eq!(
            found(
                "tinkers-local",
                "crates/tinkers-local",
                "candle-nn",
                Kind::Normal
            ),
            1
        );
        assert_eq!(found("tinkers", "crates/tinkers", "clap", Kind::Normal), 1);
    }

    #[test]
    fn reqwest_is_forbidden_in_all_packages() {
        assert_eq!(
            found(
                "tinkers-transport",
                "crates/tinkers-transport",
                "reqwest",
                Kind::Normal
            ),
            1
        );
        assert_eq!(
            found("tinkers-stress", "tests/stress", "reqwest", Kind::Dev),
            1
        );
        assert_eq!(
            found("tinkers-stress", "tests/stress", "hyper", Kind::Dev),
            0
        );
    }

    #[test]
    fn core_crates_must_not_depend_on_tokio() {
        assert_eq!(
            found("tinkers-core", "crates/tinkers-core", "tokio", Kind::Normal),
            1
        );
        assert_eq!(
            found("tinkers-core", "crates/tinkers-core", "tokio", Kind::Dev),
            0
        );
    }
}
