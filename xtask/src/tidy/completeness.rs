//! The rules on what each published crate brings along: a README that is its documentation, an example, a paragraph.

use super::Violation;
use super::files::File;
use crate::metadata::Package;

/// The line with which a library takes its README for its documentation.
const INCLUDES_README: &str = "#![doc = include_str!(\"../README.md\")]";

/// The document that says of each crate what it is for.
pub(crate) const ARCHITECTURE: &str = "docs/ARCHITECTURE.md";

/// What published crates lack. A program needs no example: it is one.
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
        let mut lack = |what: &str| found.push(Violation::new(&package.name, what));
        if text(&format!("{directory}/README.md")).is_none_or(|readme| readme.trim().is_empty()) {
            lack("lacks a README.md");
        }
        let paragraph = format!("`{}`", package.name);
        if text(ARCHITECTURE).is_none_or(|document| !document.contains(&paragraph)) {
            lack("is not described in docs/ARCHITECTURE.md");
        }
        if !package.has_library {
            continue;
        }
        if package.examples.is_empty() {
            lack("lacks an example");
        }
        if text(&format!("{directory}/src/lib.rs"))
            .is_none_or(|source| !source.lines().any(|line| line == INCLUDES_README))
        {
            lack("does not include its README.md as its documentation");
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Example;

    fn package() -> Package {
        Package {
            name: "tinkers-wire".to_owned(),
            directory: "crates/tinkers-wire".to_owned(),
            is_published: true,
            has_library: true,
            examples: vec![Example::default()],
            ..Package::default()
        }
    }

    fn files() -> Vec<File> {
        vec![
            File::new("docs/ARCHITECTURE.md", "`tinkers-wire` is the wire.\n"),
            File::new("crates/tinkers-wire/README.md", "# tinkers-wire\n"),
            File::new(
                "crates/tinkers-wire/src/lib.rs",
                &format!("//! It.\n{INCLUDES_README}\n"),
            ),
        ]
    }

    #[test]
    fn a_complete_crate_passes() {
        assert_eq!(violations(&[package()], &files()), []);
    }

    #[test]
    fn each_missing_piece_is_found() {
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
        assert_eq!(violations(&[bare], &files())[0].what, "lacks an example");
    }

    #[test]
    fn an_empty_readme_and_a_commented_include_are_refused() {
        let mut files = files();
        files[1].text = "\n".to_owned();
        files[2].text = format!("//! It.\n// {INCLUDES_README}\n");
        assert_eq!(violations(&[package()], &files).len(), 2);
    }

    #[test]
    fn programs_need_no_example_and_packages_of_tests_nothing() {
        let program = Package {
            has_library: false,
            examples: Vec::new(),
            ..package()
        };
        assert_eq!(violations(&[program], &files()), []);
        let aside = Package {
            is_published: false,
            ..package()
        };
        assert_eq!(violations(&[aside], &[]), []);
    }
}
