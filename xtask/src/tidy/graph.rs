//! The rule on edges: which crate of the workspace may name which other, and how.

use super::Violation;
use super::table::{self, FACADE, PLANNED};
use crate::metadata::{Dependency, Kind, Package};

/// Edges that the table does not allow, crates without a row and rows without a crate.
pub(crate) fn violations(packages: &[Package]) -> Vec<Violation> {
    let mut found = missing(packages);
    for package in packages {
        found.extend(edges(package, packages));
    }
    found
}

fn missing(packages: &[Package]) -> Vec<Violation> {
    let is_there = |name: &str| packages.iter().any(|package| package.name == name);
    let rows = table::TABLE.iter().map(|row| row.name);
    rows.filter(|name| !is_there(name) && !PLANNED.contains(name))
        .map(|name| Violation::new(name, "has a row in the crate table and no directory"))
        .collect()
}

fn edges(package: &Package, packages: &[Package]) -> Vec<Violation> {
    let is_inside = |dependency: &&Dependency| {
        packages.iter().any(|other| other.name == dependency.name) || dependency.is_path
    };
    let inside = package.dependencies.iter().filter(is_inside);
    let is_aside = package.directory == "xtask" || package.directory.starts_with("tests/");
    let Some(row) = table::entry(&package.name) else {
        if is_aside {
            return aside(package, inside, packages);
        }
        return vec![Violation::new(
            &package.name,
            "has no row in the crate table",
        )];
    };
    let mut found = Vec::new();
    for dependency in inside {
        let name = dependency.name.as_str();
        if dependency.kind == Kind::Dev {
            found.extend(dev_edge(package, dependency, packages));
        } else if !row.inside.contains(&name) {
            found.push(Violation::new(
                &package.name,
                format!(
                    "may not depend on {name}; the crate table allows {:?}",
                    row.inside
                ),
            ));
        }
    }
    found
}

/// xtask names no crate that it checks; packages of tests may name any library.
fn aside<'a>(
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
                format!("may not depend on {}", dependency.name),
            )
        })
        .collect()
}

fn dev_edge(package: &Package, to: &Dependency, packages: &[Package]) -> Option<Violation> {
    let name = to.name.as_str();
    let is_library = packages
        .iter()
        .any(|other| other.name == name && other.has_library);
    if !is_library {
        return Some(Violation::new(
            &package.name,
            format!("its dev-dependency {name} is no library of the workspace"),
        ));
    }
    if name == FACADE && package.name != "tinkers-cli" && package.name != FACADE {
        return Some(Violation::new(
            &package.name,
            "may not name the facade, not even as a dev-dependency; such a test belongs under tests/",
        ));
    }
    // With a version, publishing would need the other crate on the registry first: a circle.
    if package.is_published && to.requirement != "*" {
        return Some(Violation::new(
            &package.name,
            format!(
                "its dev-dependency {name} must be written with a path alone, without a version"
            ),
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

    /// A workspace with every crate of the table, in which `changed` replaces or joins one.
    fn with(changed: Package) -> Vec<Package> {
        let mut packages: Vec<Package> = table::TABLE
            .iter()
            .map(|row| library(row.name, &[]))
            .collect();
        packages.retain(|package| package.name != changed.name);
        packages.push(changed);
        packages
    }

    fn refused(changed: Package) -> String {
        let found = violations(&with(changed));
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].to_string()
    }

    #[test]
    fn allowed_edges_pass() {
        let normal = library("tinkers-core", &[("tinkers-wire", Kind::Normal, "^0.1.0")]);
        assert_eq!(violations(&with(normal)), []);
        let dev = library("tinkers-wire", &[("tinkers-local", Kind::Dev, "*")]);
        assert_eq!(violations(&with(dev)), []);
        let cli = library("tinkers-cli", &[("tinkers", Kind::Dev, "*")]);
        assert_eq!(violations(&with(cli)), []);
    }

    #[test]
    fn an_upward_edge_is_refused() {
        let text = refused(library(
            "tinkers-wire",
            &[("tinkers-core", Kind::Normal, "^0.1.0")],
        ));
        assert!(text.contains("may not depend on tinkers-core"), "{text}");
    }

    #[test]
    fn a_downward_edge_outside_the_table_is_refused() {
        let edge = ("tinkers-transport", Kind::Normal, "^0.1.0");
        assert!(refused(library("tinkers-sampling", &[edge])).contains("tinkers-transport"));
        let build = ("tinkers-limits", Kind::Build, "^0.1.0");
        assert!(refused(library("tinkers-core", &[build])).contains("tinkers-limits"));
    }

    #[test]
    fn the_facade_is_refused_even_in_tests_of_a_library() {
        let text = refused(library("tinkers-training", &[("tinkers", Kind::Dev, "*")]));
        assert!(text.contains("facade"), "{text}");
    }

    #[test]
    fn a_dev_dependency_with_a_version_is_refused() {
        let text = refused(library(
            "tinkers-wire",
            &[("tinkers-local", Kind::Dev, "^0.1.0")],
        ));
        assert!(text.contains("without a version"), "{text}");
    }

    #[test]
    fn a_dev_dependency_on_a_program_is_refused() {
        let text = refused(library("tinkers-wire", &[("tinkers-cli", Kind::Dev, "*")]));
        assert!(text.contains("no library"), "{text}");
    }

    #[test]
    fn a_crate_without_a_row_is_refused() {
        assert!(refused(library("tinkers-extra", &[])).contains("no row"));
    }

    #[test]
    fn a_row_without_a_crate_is_refused_unless_it_is_planned() {
        let mut packages = with(library("tinkers-wire", &[]));
        packages.retain(|package| package.name != "tinkers-rest");
        assert_eq!(violations(&packages), []);
        packages.retain(|package| package.name != "tinkers-limits");
        assert_eq!(violations(&packages)[0].place, "tinkers-limits");
    }

    #[test]
    fn packages_of_tests_may_use_the_facade_and_xtask_nothing() {
        let mut tests = library("tinkers-e2e", &[("tinkers", Kind::Dev, "^0.1.0")]);
        tests.directory = "tests/e2e".to_owned();
        tests.is_published = false;
        assert_eq!(violations(&with(tests)), []);
        let mut xtask = library("xtask", &[("tinkers-wire", Kind::Normal, "^0.1.0")]);
        xtask.directory = "xtask".to_owned();
        assert!(refused(xtask).contains("tinkers-wire"));
    }
}
