//! `cargo xtask tidy`: checks the rules of the workspace. Each rule is a pure function in its own
//! module.

mod completeness;
mod cycles;
mod diagram;
mod directories;
mod external;
mod files;
mod graph;
mod language;
mod lexer;
mod manifest;
mod modules;
mod named_tests;
mod parity;
mod paths;
mod source;
mod table;
mod text;
mod unused;

use std::fmt;

use crate::{environment, metadata, no_arguments, out};

/// A violation of a repository rule, with the place where it was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Violation {
    /// The file or the crate with the violation, and the line number if there is one.
    pub(crate) place: String,
    /// A description of the violation, and how to fix it.
    pub(crate) what: String,
}

impl Violation {
    pub(crate) fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            what: what.into(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    no_arguments(arguments)?;
    let found = check()?;
    if found.is_empty() {
        out::line("tidy: no violations");
        return Ok(());
    }
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    Err(format!(
        "tidy found {} violations:\n{}",
        found.len(),
        lines.join("\n")
    ))
}

/// Finds the violations of all repository rules in the workspace, sorted by place.
pub(crate) fn check() -> Result<Vec<Violation>, String> {
    let root = environment::root();
    let files = files::tracked(&root)?;
    let workspace = metadata::workspace()?;
    let packages = &workspace.packages;
    let mut found = Vec::new();
    found.extend(graph::violations(packages));
    found.extend(external::violations(packages));
    found.extend(directories::violations(packages));
    found.extend(completeness::violations(packages, &files));
    found.extend(cycles::violations(packages, &files));
    found.extend(unused::violations(packages, &files));
    found.extend(diagram::violations(&files));
    found.extend(named_tests::violations(&files));
    found.extend(parity::violations(&files));
    found.extend(language::violations(&files));
    for file in &files {
        found.extend(text::violations(file));
        if file.path.ends_with(".rs") {
            found.extend(source::violations(file));
        }
        if file.path.ends_with("Cargo.toml") && file.path != "Cargo.toml" {
            let is_published = packages.iter().any(|package| {
                package.is_published && file.path == format!("{}/Cargo.toml", package.directory)
            });
            found.extend(manifest::violations(file, is_published));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    #[test]
    fn workspace_has_no_violations_of_the_tidy_rules() {
        let found = super::check().unwrap();
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert!(
            found.is_empty(),
            "tidy found {} violations:\n{}",
            found.len(),
            lines.join("\n")
        );
    }
}
