//! The page docs/cli.md, compared with the help and the output of the program.

use std::path::Path;

use super::cases::cases;
use super::commands::{OTHER_COMMANDS, commands};
use crate::program::run;

const PAGE: &str = include_str!("../../../../../docs/cli.md");

/// Asserts that the page has exactly these rows below the header `header`.
#[track_caller]
fn assert_rows(header: &str, expected: &[String]) {
    let (_, table) = PAGE.split_once(header).expect("the page has the table");
    let rows = table.lines().skip(2).take_while(|line| !line.is_empty());
    let rows: Vec<&str> = rows.collect();
    assert!(
        rows == expected,
        "docs/cli.md must have these rows below `{header}`:\n{}",
        expected.join("\n")
    );
}

/// Returns the row of a command: its usage, and the description in its help.
fn row(home: &Path, command: &str) -> String {
    let words: Vec<&str> = command.split(' ').chain(["--help"]).collect();
    let help = run(home, &words).succeeded().stdout.clone();
    let (about, rest) = help.split_once("\n\n").unwrap();
    let usage = rest.lines().next().unwrap();
    let usage = usage.strip_prefix("Usage: ").unwrap();
    let about = about.split_whitespace().collect::<Vec<_>>().join(" ");
    format!(
        "| `{}` | {} |",
        usage.replace('|', "\\|"),
        about.replace('|', "\\|")
    )
}

#[test]
fn reference_lists_each_command_with_its_usage() {
    let home = tempfile::tempdir().unwrap();
    let all = commands(home.path(), &[]);
    assert!(all.len() > OTHER_COMMANDS.len());
    let rows: Vec<String> = all
        .iter()
        .map(|command| row(home.path(), command))
        .collect();
    assert_rows("| command | what it does |", &rows);
}

#[test]
fn reference_lists_the_fields_of_each_command() {
    let rows: Vec<String> = cases()
        .iter()
        .map(|case| {
            let json: serde_json::Value = serde_json::from_str(case.json).unwrap();
            let fields = case.csv.lines().next().unwrap().replace(',', "`, `");
            // The first key of the object that contains the rows, if it is a list.
            let lists = [
                "models",
                "runs",
                "checkpoints",
                "sessions",
                "data",
                "entries",
            ];
            let list = lists
                .iter()
                .find(|list| json[**list].is_array())
                .map_or_else(|| "one object".to_owned(), |list| format!("`{list}`"));
            format!("| `{}` | {list} | `{fields}` |", case.command.join(" "))
        })
        .collect();
    assert_rows("| command | rows in JSON | CSV header |", &rows);
}
