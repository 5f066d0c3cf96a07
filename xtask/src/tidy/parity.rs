//! The rule that docs/parity.md is complete.
//!
//! Each row of its tables has three cells: names of the official Python SDK or of tinkex, what this
//! SDK has instead, and the tests that show it. In place of tests, the last cell may begin with
//! `planned`, or state a reason after `left out:`. There must be one row for each name in
//! interop/surface.txt, and for each environment variable that the crates read.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use super::files::File;
use super::named_tests::{PARITY_PAGE as DOCUMENT, code_spans, named_in};

/// The list of names that `interop/surface.py` prints for the official Python SDK.
const SURFACE: &str = "interop/surface.txt";

/// String literals in the form of environment variables that are none.
const NO_VARIABLES: [&str; 3] = ["IN_PROGRESS", "SCREAMING_SNAKE_CASE", "SESSION_END"];

/// Finds incomplete and duplicate rows, and names without a row.
pub(crate) fn violations(files: &[File]) -> Vec<Violation> {
    let text_of = |path: &str| files.iter().find(|file| file.path == path);
    let Some(document) = text_of(DOCUMENT) else {
        return vec![Violation::new(DOCUMENT, "is missing")];
    };
    let Some(surface) = text_of(SURFACE) else {
        return vec![Violation::new(SURFACE, "is missing")];
    };
    let mut found = Vec::new();
    let mut line_by_name: BTreeMap<String, usize> = BTreeMap::new();
    for (number, line) in rows(&document.text) {
        let place = format!("{DOCUMENT}:{number}");
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", names, here, shown_by, ""] = cells[..] else {
            found.push(Violation::new(place, "is a row without three cells"));
            continue;
        };
        if let Some(what) = fault_in(here, shown_by) {
            found.push(Violation::new(&place, what));
        }
        for name in names_in(names) {
            if let Some(first) = line_by_name.insert(name.clone(), number) {
                let what = format!("has a row for `{name}`, as line {first} has: merge the rows");
                found.push(Violation::new(&place, what));
            }
        }
    }
    let needed = surface.text.lines().map(str::trim);
    let needed: BTreeSet<&str> = needed.chain(variables(files)).collect();
    for name in needed {
        if !name.is_empty() && !line_by_name.contains_key(name) {
            let what = format!("has no row for `{name}`");
            found.push(Violation::new(DOCUMENT, what));
        }
    }
    found
}

fn is_separator(line: &str) -> bool {
    line.starts_with("|---")
}

/// Returns the rows of all tables with their line numbers, without headers and separators.
fn rows(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let followed = text.lines().zip(text.lines().skip(1).chain([""]));
    followed
        .zip(1..)
        .filter(|((line, next), _)| {
            line.starts_with('|') && !is_separator(line) && !is_separator(next)
        })
        .map(|((line, _), number)| (number, line))
}

/// Returns what is wrong with a row, or `None` if it is complete. `here` is the cell of this SDK,
/// and `shown_by` is the cell of the tests.
fn fault_in(here: &str, shown_by: &str) -> Option<&'static str> {
    if named_in(shown_by).next().is_some() {
        let is_empty = matches!(here, "" | "–");
        return is_empty.then_some("is a row with a test, but without a name of this SDK");
    }
    if shown_by.starts_with("planned") {
        return None;
    }
    match shown_by.strip_prefix("left out:") {
        Some(reason) if !reason.trim().is_empty() => None,
        Some(_) => Some("is a row that is left out without a reason"),
        None => Some("is a row without a test: name one, or write `planned` or `left out: REASON`"),
    }
}

/// Returns the names in the first cell of a row: its code spans, or the whole text if there are
/// none. An option such as `--limit` belongs to the command before it.
fn names_in(cell: &str) -> Vec<String> {
    let mut command = "";
    let mut names = Vec::new();
    for span in code_spans(cell) {
        if span.starts_with("--") {
            names.push(format!("{command} {span}"));
        } else {
            command = span;
            names.push(span.to_owned());
        }
    }
    if names.is_empty() {
        names.push(cell.to_owned());
    }
    names
}

/// Returns the names of environment variables in the string literals of the crates. Skips test
/// modules, and variables that are read at compile time.
fn variables(files: &[File]) -> impl Iterator<Item = &str> {
    let is_source = |file: &&File| {
        file.path.starts_with("crates/")
            && file.path.contains("/src/")
            && file.path.ends_with(".rs")
    };
    files.iter().filter(is_source).flat_map(|file| {
        let code = file.text.split("#[cfg(test)]").next().unwrap_or_default();
        let is_code = |line: &&str| !line.trim_start().starts_with("//");
        code.lines().filter(is_code).flat_map(|line| {
            let literals = line.split('"').zip(line.split('"').skip(1));
            literals
                .filter(|(before, literal)| is_variable(literal) && !before.ends_with("env!("))
                .map(|(_, literal)| literal)
        })
    })
}

fn is_variable(literal: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    literal.starts_with(|first: char| first.is_ascii_uppercase())
        && literal.contains('_')
        && literal.bytes().all(is_allowed)
        && !NO_VARIABLES.contains(&literal)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: &str = "| `save_state` | `save_state` | `it_is_saved` |\n";

    fn found_with(rows: &str, surface: &str, source: &str) -> Vec<String> {
        let document = format!("# Title\n\n| Python | here | shown by |\n|---|---|---|\n{rows}");
        let files = [
            File::new(DOCUMENT, &document),
            File::new(SURFACE, surface),
            File::new("crates/a/src/lib.rs", source),
        ];
        let found = violations(&files);
        found.iter().map(ToString::to_string).collect()
    }

    fn found(rows: &str) -> Vec<String> {
        found_with(rows, "", "")
    }

    #[test]
    fn parity_row_needs_a_test_a_plan_or_a_reason() {
        for shown_by in ["`it_is_saved`", "planned", "planned, with x", "left out: x"] {
            let row = format!("| `save_state` | `save_state` | {shown_by} |\n");
            assert_eq!(found(&row), Vec::<String>::new(), "{shown_by}");
        }
        for shown_by in [
            "",
            "–",
            "left out",
            "left out: ",
            "see `SaveState`",
            "later",
        ] {
            let row = format!("| `save_state` | `save_state` | {shown_by} |\n");
            let found = found(&row);
            assert_eq!(found.len(), 1, "{shown_by}");
            assert!(
                found[0].starts_with("docs/parity.md:5: is a row"),
                "{found:?}"
            );
        }
    }

    #[test]
    fn parity_row_with_a_test_names_what_it_tests() {
        assert_eq!(found("| `save_state` | – | `it_is_saved` |\n").len(), 1);
        assert_eq!(found("| `save_state` | `it_is_saved` |\n").len(), 1);
    }

    #[test]
    fn duplicate_parity_rows_are_reported_with_both_lines() {
        let found = found(&format!("{ROWS}{ROWS}"));
        assert_eq!(found.len(), 1);
        let expected = "docs/parity.md:6: has a row for `save_state`, as line 5 has";
        assert!(found[0].starts_with(expected), "{found:?}");
        let plain = "| retries | yes | `it_is_saved` |\n";
        assert_eq!(self::found(&format!("{plain}{plain}")).len(), 1);
    }

    #[test]
    fn each_name_of_the_python_sdk_needs_a_parity_row() {
        let rows = "| `tinker run list`, `--limit` | – | planned |\n| `Datum`, `Datum.x` | – | planned |\n";
        let surface = "Datum\nDatum.x\ntinker run list\ntinker run list --limit\n";
        assert_eq!(found_with(rows, surface, ""), Vec::<String>::new());
        for missing in ["Dat", "Datum.y", "--limit", "tinker run list --columns"] {
            assert_eq!(found_with(rows, missing, "").len(), 1, "{missing}");
        }
    }

    #[test]
    fn each_environment_variable_needs_a_parity_row() {
        let source = "const A: &str = \"TINKER_A\";\nconst B: &str = env!(\"CARGO_B\");\n\
            x(\"IN_PROGRESS\", \"Text_A\", \"_\");\n/// It's 5\" or \"TINKER_D\".\n\
            #[cfg(test)]\nmod tests { x(\"TINKER_C\") }\n";
        let found = found_with(ROWS, "", source);
        assert_eq!(found, ["docs/parity.md: has no row for `TINKER_A`"]);
        let rows = "| `TINKER_A` | the same | `it_is_read` |\n";
        assert_eq!(found_with(rows, "", source), Vec::<String>::new());
    }

    #[test]
    fn missing_parity_page_or_list_of_names_is_reported() {
        assert_eq!(violations(&[]).len(), 1);
        assert_eq!(violations(&[File::new(DOCUMENT, "")]).len(), 1);
    }
}
