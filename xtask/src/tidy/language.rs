//! The rules on language: words to avoid, the length of test names, and unique names of public
//! types.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use super::files::File;
use super::lexer::{code_only, function_name};

/// The words and phrases that Rust sources and documents must not contain. They are concatenated
/// from parts, so that this file does not violate the rule.
const AVOIDED: &[&str] = &[
    concat!("who", "ever"),
    concat!("no", "body"),
    concat!("some", "body"),
    concat!("every", "body"),
    concat!("any", "body"),
    concat!("those ", "who"),
    concat!("what was ", "told"),
    concat!("so ", "many"),
    concat!("of one's ", "own"),
    concat!("goes ", "on"),
];

/// The maximum number of characters in a test name.
const MAX_TEST_NAME_LEN: usize = 70;

/// The names that public types of several crates may share.
const SHARED_TYPES: &[&str] = &["Error", "Result"];

/// Finds avoided words, too long test names, and public types with the same name, in all files.
pub(crate) fn violations(files: &[File]) -> Vec<Violation> {
    let mut found = duplicate_types(files);
    for file in files {
        if file.path.ends_with(".rs") || file.path.ends_with(".md") {
            found.extend(avoided_words(file));
        }
        if file.path.ends_with(".rs") {
            found.extend(long_test_names(file));
        }
    }
    found
}

fn avoided_words(file: &File) -> Vec<Violation> {
    let mut found = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        // The words of an identifier are checked, too.
        let line = line.to_lowercase().replace('_', " ");
        for word in AVOIDED.iter().filter(|word| contains_word(&line, word)) {
            let place = format!("{}:{}", file.path, index + 1);
            let what = format!("`{word}` is to be avoided: name the thing, such as the waiter");
            found.push(Violation::new(place, what));
        }
    }
    found
}

/// Returns whether `word` occurs in `line` as a whole word.
fn contains_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + word.len()..]);
        !before.ends_with(char::is_alphanumeric) && !after.starts_with(char::is_alphanumeric)
    })
}

fn long_test_names(file: &File) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut is_test = false;
    for (index, line) in code_only(&file.text).lines().enumerate() {
        is_test |= is_test_attribute(line);
        let Some(name) = function_name(line) else {
            continue;
        };
        if is_test && name.len() > MAX_TEST_NAME_LEN {
            let place = format!("{}:{}", file.path, index + 1);
            let what = format!(
                "the test name {name} has {} characters, expected at most {MAX_TEST_NAME_LEN}",
                name.len()
            );
            found.push(Violation::new(place, what));
        }
        is_test = false;
    }
    found
}

/// Returns whether a line starts with a test attribute, such as `#[test]` or `#[tokio::test(..)]`.
pub(super) fn is_test_attribute(line: &str) -> bool {
    let attribute = line.trim_start().strip_prefix("#[");
    attribute.is_some_and(|attribute| {
        let path = attribute.split(['(', ']']).next().unwrap_or_default();
        path.rsplit("::").next() == Some("test")
    })
}

/// Finds public types that have the same name in different crates.
fn duplicate_types(files: &[File]) -> Vec<Violation> {
    let mut crates_by_type: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for file in files.iter().filter(|file| file.path.ends_with(".rs")) {
        let path = file.path.strip_prefix("crates/");
        let Some((name, _)) = path.and_then(|path| path.split_once("/src/")) else {
            continue;
        };
        for line in code_only(&file.text).lines() {
            if let Some(public_type) = public_type(line) {
                let crates = crates_by_type.entry(public_type.to_owned()).or_default();
                crates.insert(name);
            }
        }
    }
    let is_duplicate = |(name, crates): &(String, BTreeSet<&str>)| {
        crates.len() > 1 && !SHARED_TYPES.contains(&name.as_str())
    };
    crates_by_type
        .into_iter()
        .filter(is_duplicate)
        .map(|(name, crates)| {
            let crates: Vec<&str> = crates.into_iter().collect();
            let what = format!(
                "`{name}` is a public type of several crates: {}; rename or re-export it",
                crates.join(", ")
            );
            Violation::new(crates[0], what)
        })
        .collect()
}

/// Returns the name of the public type that a line defines, or `None` if it defines none.
fn public_type(line: &str) -> Option<&str> {
    let definition = line.trim_start().strip_prefix("pub ")?;
    let definition = definition.strip_prefix("unsafe ").unwrap_or(definition);
    let (kind, name) = definition.split_once(' ')?;
    if !["struct", "enum", "trait", "union", "type"].contains(&kind) {
        return None;
    }
    name.split(|c: char| !c.is_alphanumeric() && c != '_')
        .next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<File> = files
            .iter()
            .map(|(path, text)| File::new(path, text))
            .collect();
        violations(&files).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn avoided_words_are_found_in_comments_identifiers_and_documents() {
        for word in AVOIDED {
            let capital = word[..1].to_uppercase() + &word[1..];
            let identifier = format!("fn {}_waits() {{}}\n", word.replace(' ', "_"));
            for text in [format!("\n// {word}, too\n"), capital, identifier] {
                for path in ["xtask/src/a.rs", "interop/README.md"] {
                    assert_eq!(found(&[(path, &text)]).len(), 1, "{text}");
                }
            }
            let inside = format!("x{word} {word}x\n");
            assert_eq!(found(&[("xtask/src/a.rs", &inside)]), [""; 0]);
            assert_eq!(found(&[("data/a.txt", word)]), [""; 0]);
        }
        let second_line = format!("\n{}\n", AVOIDED[0]);
        let found = found(&[("xtask/src/a.rs", &second_line)]);
        assert!(found[0].starts_with("xtask/src/a.rs:2: "), "{found:?}");
    }

    #[test]
    fn too_long_test_names_are_violations() {
        for attribute in [
            "#[test]",
            "#[tokio::test(start_paused = true)]",
            "#[test]\n#[cfg(unix)]",
        ] {
            for (length, count) in [(70, 0), (71, 1)] {
                let name = "a".repeat(length);
                let text = format!("{attribute}\nasync fn {name}() {{}}\n");
                assert_eq!(found(&[("xtask/src/a.rs", &text)]).len(), count, "{text}");
            }
        }
        let helper = format!("#[cfg(test)]\nfn {}() {{}}\n", "a".repeat(71));
        assert_eq!(found(&[("xtask/src/a.rs", &helper)]), [""; 0]);
    }

    #[test]
    fn public_types_must_have_unique_names() {
        let a = ("crates/a/src/lib.rs", "pub struct Config<T>(T);\n");
        let found_with = |path: &str, text: &str| found(&[a, (path, text)]);
        let duplicate = found_with("crates/b/src/b.rs", "    pub enum Config {\n");
        assert_eq!(duplicate.len(), 1);
        assert!(
            duplicate[0].contains("several crates: a, b"),
            "{duplicate:?}"
        );
        for (path, text) in [
            ("crates/a/src/b.rs", "pub type Config = u8;\n"),
            ("crates/b/src/b.rs", "pub(crate) struct Config;\n"),
            ("crates/b/src/b.rs", "pub use a::Config;\n"),
            ("crates/b/src/b.rs", "// pub struct Config;\n"),
            ("crates/b/tests/b.rs", "pub struct Config;\n"),
        ] {
            assert_eq!(found_with(path, text), [""; 0], "{path}: {text}");
        }
        let error = "pub struct Error;\n";
        assert_eq!(
            found(&[("crates/a/src/a.rs", error), ("crates/b/src/b.rs", error)]),
            [""; 0]
        );
    }
}
