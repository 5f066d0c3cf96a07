//! The rule that the tests named in docs/concurrency.md and docs/parity.md exist.
//!
//! Both documents have tables whose last column names tests as code spans. Each code span that has
//! the form of a test name, which is several words joined by `_`, must be the name of a test in the
//! workspace.

use std::collections::BTreeSet;

use super::Violation;
use super::files::File;
use super::language::is_test_attribute;
use super::lexer::function_name;

/// The page that compares this SDK with the official Python SDK.
pub(super) const PARITY_PAGE: &str = "docs/parity.md";

const DOCUMENTS: [&str; 2] = ["docs/concurrency.md", PARITY_PAGE];

/// Finds test names in the documents that are not the name of a test in the workspace.
pub(crate) fn violations(files: &[File]) -> Vec<Violation> {
    let existing = tests(files);
    DOCUMENTS
        .iter()
        .flat_map(|document| violations_in(document, files, &existing))
        .collect()
}

fn violations_in(document: &str, files: &[File], existing: &BTreeSet<&str>) -> Vec<Violation> {
    let Some(file) = files.iter().find(|file| file.path == document) else {
        return vec![Violation::new(document, "is missing")];
    };
    let named: Vec<(usize, &str)> = file
        .text
        .lines()
        .zip(1..)
        .flat_map(|(line, number)| named_in(last_cell(line)).map(move |name| (number, name)))
        .collect();
    if named.is_empty() {
        return vec![Violation::new(document, "names no test in its tables")];
    }
    named
        .into_iter()
        .filter(|(_, name)| !existing.contains(name))
        .map(|(line, name)| {
            let what = format!(
                "names the test {name}, which does not exist: name the test that shows what the row states"
            );
            Violation::new(format!("{document}:{line}"), what)
        })
        .collect()
}

/// Returns the last cell of `line`, if `line` is a table row, and an empty text otherwise.
fn last_cell(line: &str) -> &str {
    let row = line.strip_prefix('|').and_then(|row| row.strip_suffix('|'));
    row.and_then(|row| row.rsplit('|').next()).unwrap_or("")
}

/// Returns the test names in a cell of a table.
pub(super) fn named_in(cell: &str) -> impl Iterator<Item = &str> {
    code_spans(cell).filter(|span| is_name(span))
}

/// Returns the code spans in a text.
pub(super) fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    // Every second part between backquotes is a code span.
    text.split('`').skip(1).step_by(2)
}

fn is_name(span: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    span.contains('_') && span.bytes().all(is_allowed)
}

/// Returns the names of all tests in the workspace.
fn tests(files: &[File]) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    for file in files.iter().filter(|file| file.path.ends_with(".rs")) {
        let mut is_test = false;
        for line in file.text.lines() {
            is_test |= is_test_attribute(line);
            if let Some(name) = function_name(line) {
                if is_test {
                    found.insert(name);
                }
                is_test = false;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARITY: &str = "| a | b | `it_holds` |";

    fn found_in(concurrency: &str, parity: &str) -> Vec<String> {
        let source = "    #[tokio::test]\n    pub(crate) async fn it_holds() {\n}\n#[test]\n\
            #[should_panic]\nfn so_does_this()\n{\n}\n\nfn no_test() {}\n";
        let files = [
            File::new(DOCUMENTS[0], concurrency),
            File::new(DOCUMENTS[1], parity),
            File::new("crates/a/src/lib.rs", source),
        ];
        let found = violations(&files);
        found.iter().map(ToString::to_string).collect()
    }

    fn found(document: &str) -> Vec<String> {
        found_in(document, PARITY)
    }

    #[test]
    fn missing_test_is_reported_with_its_line_in_the_document() {
        let row =
            "| An invariant about `retry_after_ms` | `tests/e2e`, `it_holds`, `so_does_this` |";
        assert_eq!(found(row), Vec::<String>::new());
        let missing = "# Title\n\n| An invariant | `tinkers-core`, `it_held`, module `gate` |\n";
        let found = found(missing);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].starts_with("docs/concurrency.md:3: names the test it_held"),
            "{found:?}"
        );
    }

    #[test]
    fn missing_test_in_the_parity_page_is_reported() {
        let row = "| `save_state` | `save_state` | `it_holds`, `it_held` |";
        let found = found_in(PARITY, row);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].starts_with("docs/parity.md:1: names the test it_held"),
            "{found:?}"
        );
    }

    #[test]
    fn test_name_does_not_match_part_of_a_function_name() {
        for name in ["it_hold", "t_holds", "does_this"] {
            let row = format!("| An invariant | `{name}` |");
            assert_eq!(found(&row).len(), 1, "{name}");
        }
    }

    #[test]
    fn function_without_a_test_attribute_is_not_a_test() {
        assert_eq!(found("| An invariant | `no_test` |").len(), 1);
    }

    #[test]
    fn document_without_test_names_is_a_violation() {
        assert_eq!(found("# Title\n\n`it_holds` in the text\n").len(), 1);
        assert_eq!(found_in(PARITY, "# Title\n").len(), 1);
        assert_eq!(violations(&[]).len(), DOCUMENTS.len());
    }
}
