//! The rule that each published crate has a README, an example, and a description in
//! docs/ARCHITECTURE.md.

use super::Violation;
use super::files::File;
use crate::metadata::Package;

/// The line with which a library includes its README in its documentation.
const INCLUDES_README: &str = "#![doc = include_str!(\"../README.md\")]";

/// The document that describes each crate of the workspace.
pub(crate) const ARCHITECTURE: &str = "docs/ARCHITECTURE.md";

/// Finds published crates that lack a README, an example or a description in [`ARCHITECTURE`].
/// Programs do not need an example.
pub(crate) fn violations(packages: &[Package], files: &[File]) -> Vec<Violation> {
    let mut found = Vec::new();
    let text = |path: &str| {
        files
            .iter()
            .find(|file| file.path == path)
            .map(|file| &file.text)
    };
    for package in packages.iter().filter(|package| package.is_published) {
        let directory = &package.directory;
        let mut add = |what: &str| found.push(Violation::new(&package.name, what));
        if text(&format!("{directory}/README.md")).is_none_or(|readme| readme.trim().is_empty()) {
            add("has no README.md");
        }
        let paragraph = format!("`{}`", package.name);
        if text(ARCHITECTURE).is_none_or(|document| !document.contains(&paragraph)) {
            add("is not described in docs/ARCHITECTURE.md");
        }
        if !package.has_library {
            continue;
        }
        if package.examples.is_empty() {
            add("has no example");
        }
        if text(&format!("{directory}/src/lib.rs"))
            .is_none_or(|source| !source.lines().any(|line| line == INCLUDES_README))
        {
            add("does not include its README.md in its documentation");
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package() -> Package {
        Package {
            name: "tinkers-wire".to_owned(),
            directory: "crates/tinkers-wire".to_owned(),
            is_published: true,
            has_library: true,
            examples: vec!["one".to_owned()],
            ..Package::default()
        }
    }

    fn files() -> Vec<File> {
        vec![
            File::new("docs/ARCHITECTURE.md", "`tinkers-wire` has the bodies.\n"),
            File::new("crates/tinkers-wire/README.md", "# tinkers-wire\n"),
            File::new(
                "crates/tinkers-wire/src/lib.rs",
                &format!("//! A crate.\n{INCLUDES_README}\n"),
            ),
        ]
    }

    #[test]
    fn crate_with_readme_example_and_description_has_no_violations() {
        assert_eq!(violations(&[package()], &files()), []);
    }

    #[test]
    fn missing_readme_example_or_description_is_a_violation() {
        for index in 0..files().len() {
            let mut files = files();
            files.remove(index);
            assert_eq!(
                violations(&[package()], &files).len(),
                1,
                "without file {index}"
            );
        }
        let bare = Package {
            examples: Vec::new(),
            ..package()
        };
        assert_eq!(violations(&[bare], &files())[0].what, "has no example");
    }

    #[test]
    fn empty_or_not_included_readme_is_a_violation() {
        let mut files = files();
        files[1].text = "\n".to_owned();
        files[2].text = format!("//! A crate.\n// {INCLUDES_README}\n");
        assert_eq!(violations(&[package()], &files).len(), 2);
    }

    #[test]
    fn programs_need_no_example_and_test_packages_no_readme() {
        let program = Package {
            has_library: false,
            examples: Vec::new(),
            ..package()
        };
        assert_eq!(violations(&[program], &files()), []);
        let unpublished = Package {
            is_published: false,
            ..package()
        };
        assert_eq!(violations(&[unpublished], &[]), []);
    }
}
