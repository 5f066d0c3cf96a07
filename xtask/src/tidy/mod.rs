//! `cargo xtask tidy`: reads the workspace once and hands it to the rules, each a pure function in a file of its own.

mod completeness;
mod cycles;
mod drawing;
mod files;
mod graph;
mod lexer;
mod manifest;
mod modules;
mod outside;
mod paths;
mod places;
mod promises;
mod source;
mod table;
mod text;
mod unused;

use std::fmt;

use crate::{machine, metadata, no_arguments, out};

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Violation {
    /// The file or crate, with a line where there is one.
    pub(crate) place: String,
    /// What is wrong and what to do about it.
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
        out::line("tidy: nothing found");
        return Ok(());
    }
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    Err(format!("tidy found {}:\n{}", found.len(), lines.join("\n")))
}

/// Every violation in the workspace, sorted by place.
pub(crate) fn check() -> Result<Vec<Violation>, String> {
    let root = machine::root();
    let files = files::tracked(&root)?;
    let workspace = metadata::workspace()?;
    let packages = &workspace.packages;
    let mut found = Vec::new();
    found.extend(graph::violations(packages));
    found.extend(outside::violations(packages));
    found.extend(places::violations(packages));
    found.extend(completeness::violations(packages, &files));
    found.extend(drawing::violations(&files));
    found.extend(promises::violations(&files));
    found.extend(cycles::violations(packages, &files));
    found.extend(unused::violations(packages, &files));
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
    fn the_workspace_is_tidy() {
        let found = super::check().unwrap();
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert!(
            found.is_empty(),
            "tidy found {}:\n{}",
            found.len(),
            lines.join("\n")
        );
    }
}
