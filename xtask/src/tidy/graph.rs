//! The rule on dependencies between the crates of the workspace.

use super::Violation;
use super::table::{self, FACADE};
use crate::metadata::{Dependency, Kind, Package};

/// Finds dependencies between workspace crates that the crate table does not allow, crates without
/// a row in the table, and rows whose crate does not exist. The table lists the allowed
/// dependencies of each crate.
pub(crate) fn violations(packages: &[Package]) -> Vec<Violation> {
    let mut found = missing_crates(packages);
    for package in packages {
        found.extend(package_violations(package, packages));
    }
    found
}

fn missing_crates(packages: &[Package]) -> Vec<Violation> {
    let exists = |name: &str| packages.iter().any(|package| package.name == name);
    let rows = table::TABLE.iter().map(|row| row.name);
    rows.filter(|name| !exists(name))
        .map(|name| Violation::new(name, "is in the crate table but does not exist"))
        .collect()
}

fn package_violations(package: &Package, packages: &[Package]) -> Vec<Violation> {
    let is_inside = |dependency: &&Dependency| {
        packages.iter().any(|other| other.name == dependency.name) || dependency.is_path
    };
    let inside = package.dependencies.iter().filter(is_inside);
    let is_unlisted = package.directory == "xtask" || package.directory.starts_with("tests/");
    let Some(row) = table::entry(&package.name) else {
        if is_unlisted {
            return unlisted_package_violations(package, inside, packages);
        }
        return vec![Violation::new(&package.name, "is not in the crate table")];
    };
    let mut found = Vec::new();
    for dependency in inside {
        let name = dependency.name.as_str();
        if dependency.kind == Kind::Dev {
            found.extend(dev_dependency_violation(package, dependency, packages));
        } else if !row.inside.contains(&name) {
            found.push(Violation::new(
                &package.name,
                format!(
                    "must not depend on {name}; the crate table allows {:?}",
                    row.inside
                ),
            ));
        }
    }
    found
}

/// Finds forbidden dependencies of a package that is not in the crate table. xtask must not depend
/// on any crate of the workspace. Test packages may depend on any library.
fn unlisted_package_violations<'a>(
    package: &Package,
    inside: impl Iterator<Item = &'a Dependency>,
    packages: &[Package],
) -> Vec<Violation> {
    let is_library = |name: &str| {
        packages
            .iter()
            .any(|other| other.name == name && other.has_library)
    };
    inside
        .filter(|dependency| package.directory == "xtask" || !is_library(&dependency.name))
        .map(|dependency| {
            Violation::new(
                &package.name,
                format!("must not depend on {}", dependency.name),
            )
        })
        .collect()
}

fn dev_dependency_violation(
    package: &Package,
    dependency: &Dependency,
    packages: &[Package],
) -> Option<Violation> {
    let name = dependency.name.as_str();
    let is_library = packages
        .iter()
        .any(|other| other.name == name && other.has_library);
    if !is_library {
        return Some(Violation::new(
            &package.name,
            format!("its dev-dependency {name} is not a library of the workspace"),
        ));
    }
    if name == FACADE && package.name != "tinkers-cli" && package.name != FACADE {
        return Some(Violation::new(
            &package.name,
            "must not depend on the facade, not even as a dev-dependency: move the test to tests/",
        ));
    }
    // If the dependency had a version, publishing this crate would require that the other crate is
    // published first, and vice versa.
    if package.is_published && dependency.requirement != "*" {
        return Some(Violation::new(
            &package.name,
            format!("its dev-dependency {name} must have a path without a version"),
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library(name: &str, dependencies: &[(&str, Kind, &str)]) -> Package {
        Package {
            name: name.to_owned(),
            directory: format!("crates/{name}"),
            is_published: true,
            has_library: name != "tinkers-cli",
            dependencies: dependencies
                .iter()
                .map(|(name, kind, requirement)| Dependency {
                    name: (*name).to_owned(),
                    kind: *kind,
                    is_path: true,
                    requirement: (*requirement).to_owned(),
                })
                .collect(),
            ..Package::default()
        }
    }

    /// Returns a workspace with all crates of the crate table. The crate `changed` replaces the
    /// crate with the same name, or is added.
    fn workspace_with(changed: Package) -> Vec<Package> {
        let mut packages: Vec<Package> = table::TABLE
            .iter()
            .map(|row| library(row.name, &[]))
            .collect();
        packages.retain(|package| package.name != changed.name);
        packages.push(changed);
        packages
    }

    fn single_violation(changed: Package) -> String {
        let found = violations(&workspace_with(changed));
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].to_string()
    }

    #[test]
    fn allowed_workspace_dependencies_have_no_violations() {
        let normal = library("tinkers-core", &[("tinkers-wire", Kind::Normal, "^0.1.0")]);
        assert_eq!(violations(&workspace_with(normal)), []);
        let dev = library("tinkers-wire", &[("tinkers-local", Kind::Dev, "*")]);
        assert_eq!(violations(&workspace_with(dev)), []);
        let cli = library("tinkers-cli", &[("tinkers", Kind::Dev, "*")]);
        assert_eq!(violations(&workspace_with(cli)), []);
    }

    #[test]
    fn dependency_on_a_higher_tier_is_a_violation() {
        let text = single_violation(library(
            "tinkers-wire",
            &[("tinkers-core", Kind::Normal, "^0.1.0")],
        ));
        assert!(text.contains("must not depend on tinkers-core"), "{text}");
    }

    #[test]
    fn dependency_missing_in_the_crate_table_is_a_violation() {
        let edge = ("tinkers-transport", Kind::Normal, "^0.1.0");
        assert!(
            single_violation(library("tinkers-sampling", &[edge])).contains("tinkers-transport")
        );
        let build = ("tinkers-registry", Kind::Build, "^0.1.0");
        assert!(single_violation(library("tinkers-core", &[build])).contains("tinkers-registry"));
    }

    #[test]
    fn facade_as_dev_dependency_of_a_library_is_a_violation() {
        let text = single_violation(library("tinkers-training", &[("tinkers", Kind::Dev, "*")]));
        assert!(text.contains("facade"), "{text}");
    }

    #[test]
    fn workspace_dev_dependency_with_a_version_is_a_violation() {
        let text = single_violation(library(
            "tinkers-wire",
            &[("tinkers-local", Kind::Dev, "^0.1.0")],
        ));
        assert!(text.contains("without a version"), "{text}");
    }

    #[test]
    fn dev_dependency_on_a_program_is_a_violation() {
        let text = single_violation(library("tinkers-wire", &[("tinkers-cli", Kind::Dev, "*")]));
        assert!(text.contains("not a library"), "{text}");
    }

    #[test]
    fn crate_without_a_row_in_the_crate_table_is_a_violation() {
        assert!(single_violation(library("tinkers-extra", &[])).contains("not in the crate table"));
    }

    #[test]
    fn crate_table_row_without_a_crate_is_a_violation() {
        let mut packages = workspace_with(library("tinkers-wire", &[]));
        packages.retain(|package| package.name != "tinkers-limits");
        assert_eq!(violations(&packages)[0].place, "tinkers-limits");
    }

    #[test]
    fn test_packages_may_use_the_facade_but_xtask_may_use_no_crate() {
        let mut tests = library("tinkers-e2e", &[("tinkers", Kind::Dev, "^0.1.0")]);
        tests.directory = "tests/e2e".to_owned();
        tests.is_published = false;
        assert_eq!(violations(&workspace_with(tests)), []);
        let mut xtask = library("xtask", &[("tinkers-wire", Kind::Normal, "^0.1.0")]);
        xtask.directory = "xtask".to_owned();
        assert!(single_violation(xtask).contains("tinkers-wire"));
    }
}
