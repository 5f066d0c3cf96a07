//! The rule that every test which docs/concurrency.md names is there.
//!
//! The document is tables of promises; the last cell of a row says in code spans what holds the promise. A span with the form of
//! a test's name, words joined by `_`, must be a function somewhere in the workspace.

use std::collections::BTreeSet;

use super::Violation;
use super::files::File;

const DOCUMENT: &str = "docs/concurrency.md";

/// The tests that are named and are not there.
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
    let there = functions(files);
    named
        .into_iter()
        .filter(|(_, name)| !there.contains(name))
        .map(|(line, name)| {
            let what = format!(
                "names the test {name}, which is nowhere; name the one that holds the promise"
            );
            Violation::new(format!("{DOCUMENT}:{line}"), what)
        })
        .collect()
}

/// The names in the last cell of a row.
fn named_in(line: &str) -> impl Iterator<Item = &str> {
    let row = line.strip_prefix('|').and_then(|row| row.strip_suffix('|'));
    let cell = row.and_then(|row| row.rsplit('|').next()).unwrap_or("");
    // Every second piece between backquotes is code.
    cell.split('`')
        .skip(1)
        .step_by(2)
        .filter(|span| is_name(span))
}

fn is_name(span: &str) -> bool {
    let of_a_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    span.contains('_') && span.bytes().all(of_a_name)
}

/// The names of all functions.
fn functions(files: &[File]) -> BTreeSet<&str> {
    let sources = files.iter().filter(|file| file.path.ends_with(".rs"));
    let lines = sources.flat_map(|file| file.text.lines());
    lines
        .filter_map(|line| {
            let (before, rest) = line.split_once("fn ")?;
            let is_word = before.is_empty() || before.ends_with(' ');
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
            is_word.then_some(&rest[..end])
        })
        .collect()
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
    fn a_missing_test_is_named_with_its_line() {
        let row = "| A promise about `retry_after_ms` | `tests/e2e`, `it_holds`, `so_does_this` |";
        assert_eq!(found(row), Vec::<String>::new());
        let gone = "# Title\n\n| A promise | `tinkers-core`, `it_held`, module `gate` |\n";
        let told = found(gone);
        assert_eq!(told.len(), 1);
        assert!(
            told[0].starts_with("docs/concurrency.md:3: names the test it_held"),
            "{told:?}"
        );
    }

    #[test]
    fn only_whole_names_of_functions_count() {
        for name in ["it_hold", "t_holds", "does_this"] {
            let row = format!("| A promise | `{name}` |");
            assert_eq!(found(&row).len(), 1, "{name}");
        }
    }

    #[test]
    fn a_document_without_promises_or_none_at_all_is_refused() {
        assert_eq!(found("# Title\n\n`it_holds` in the text\n").len(), 1);
        assert_eq!(violations(&[]).len(), 1);
    }
}
