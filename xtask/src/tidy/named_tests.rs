//! The rule that the tests named in docs/concurrency.md exist.
//!
//! The document has tables of invariants. Their last column names the tests as code spans. Each
//! code span that has the form of a test name, which is several words joined by `_`, must be the
//! name of a function in the workspace.

use std::collections::BTreeSet;

use super::Violation;
use super::files::File;
use super::lexer::function_name;

const DOCUMENT: &str = "docs/concurrency.md";

/// Finds test names in the concurrency document that are not the name of a function in the
/// workspace.
pub(crate) fn violations(files: &[File]) -> Vec<Violation> {
    let Some(document) = files.iter().find(|file| file.path == DOCUMENT) else {
        return vec![Violation::new(DOCUMENT, "is missing")];
    };
    let named: Vec<(usize, &str)> = document
        .text
        .lines()
        .zip(1..)
        .flat_map(|(line, number)| named_in(line).map(move |name| (number, name)))
        .collect();
    if named.is_empty() {
        return vec![Violation::new(DOCUMENT, "names no test in its tables")];
    }
    let existing = functions(files);
    named
        .into_iter()
        .filter(|(_, name)| !existing.contains(name))
        .map(|(line, name)| {
            let what = format!(
                "names the test {name}, which does not exist: name the test of the invariant"
            );
            Violation::new(format!("{DOCUMENT}:{line}"), what)
        })
        .collect()
}

/// Returns the test names in the last cell of `line`, if `line` is a table row of the concurrency
/// document.
fn named_in(line: &str) -> impl Iterator<Item = &str> {
    let row = line.strip_prefix('|').and_then(|row| row.strip_suffix('|'));
    let cell = row.and_then(|row| row.rsplit('|').next()).unwrap_or("");
    // Every second part between backquotes is a code span.
    cell.split('`')
        .skip(1)
        .step_by(2)
        .filter(|span| is_name(span))
}

fn is_name(span: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    span.contains('_') && span.bytes().all(is_allowed)
}

/// Returns the names of all functions in the workspace.
fn functions(files: &[File]) -> BTreeSet<&str> {
    let sources = files.iter().filter(|file| file.path.ends_with(".rs"));
    let lines = sources.flat_map(|file| file.text.lines());
    lines.filter_map(function_name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(document: &str) -> Vec<String> {
        let source =
            "    #[tokio::test]\n    pub(crate) async fn it_holds() {\n}\nfn so_does_this()\n{\n";
        let files = [
            File::new(DOCUMENT, document),
            File::new("crates/a/src/lib.rs", source),
        ];
        let found = violations(&files);
        found.iter().map(ToString::to_string).collect()
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
    fn test_name_does_not_match_part_of_a_function_name() {
        for name in ["it_hold", "t_holds", "does_this"] {
            let row = format!("| An invariant | `{name}` |");
            assert_eq!(found(&row).len(), 1, "{name}");
        }
    }

    #[test]
    fn concurrency_document_without_test_names_is_a_violation() {
        assert_eq!(found("# Title\n\n`it_holds` in the text\n").len(), 1);
        assert_eq!(violations(&[]).len(), 1);
    }
}
