//! The rules on Rust files: module documentation, maximum length, and forbidden code.

use super::Violation;
use super::files::File;
use super::lexer::code_only;

/// The maximum number of lines of a file, without its tests.
const MAX_LINES: usize = 500;

/// Patterns of forbidden code, each with an explanation of what to write instead.
const FORBIDDEN: &[(&str, &str)] = &[
    ("#[ignore", "fix or delete the test"),
    ("#[should_panic", "assert on the error instead"),
    ("todo!", "finish it or leave it out"),
    ("unimplemented!", "finish it or leave it out"),
    ("#[allow(", "write #[expect(.., reason = \"..\")]"),
    ("#![allow(", "write #![expect(.., reason = \"..\")]"),
];

/// Finds violations of the rules on Rust files: a file must begin with module documentation, must
/// not be too long, and must not contain forbidden code.
pub(crate) fn violations(file: &File) -> Vec<Violation> {
    let code = code_only(&file.text);
    let mut found = Vec::new();
    found.extend(missing_module_docs(file));
    found.extend(excessive_length(file));
    found.extend(forbidden(file, &code));
    found.extend(unbiased_selects(file, &code));
    found.extend(ignored_examples(file));
    found
}

fn missing_module_docs(file: &File) -> Option<Violation> {
    let first = file.text.lines().next().unwrap_or_default();
    let has_docs = first
        .strip_prefix("//!")
        .is_some_and(|rest| !rest.trim().is_empty());
    (!has_docs).then(|| {
        Violation::new(
            &file.path,
            "does not start with a `//!` line that describes it",
        )
    })
}

fn excessive_length(file: &File) -> Option<Violation> {
    let lines: Vec<&str> = file.text.lines().collect();
    let is_test_module = |pair: &[&str]| {
        pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
    };
    let tests = lines
        .windows(2)
        .position(is_test_module)
        .unwrap_or(lines.len());
    (tests > MAX_LINES).then(|| {
        Violation::new(
            &file.path,
            format!("has {tests} lines before its tests, expected at most {MAX_LINES}"),
        )
    })
}

fn forbidden(file: &File, code: &str) -> Vec<Violation> {
    let mut found = Vec::new();
    for (index, line) in code.lines().enumerate() {
        for (word, instead) in FORBIDDEN {
            if line
                .match_indices(word)
                .any(|(at, _)| is_word_start(line, at))
            {
                let place = format!("{}:{}", file.path, index + 1);
                found.push(Violation::new(
                    place,
                    format!("`{word}` is forbidden: {instead}"),
                ));
            }
        }
    }
    found
}

/// Returns whether a word starts at the offset `at` of the line, and not in the middle of a word.
fn is_word_start(line: &str, at: usize) -> bool {
    !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
}

/// Finds uses of `select!` without `biased`, which poll their branches in random order.
fn unbiased_selects(file: &File, code: &str) -> Vec<Violation> {
    let is_call = |(at, _): &(usize, &str)| is_word_start(code, *at);
    let calls = code.match_indices("select!").filter(is_call);
    let is_unbiased = |(at, name): &(usize, &str)| {
        let body = code[at + name.len()..].trim_start();
        let body = body.trim_start_matches(['{', '(', '[']).trim_start();
        !body.starts_with("biased")
    };
    calls
        .filter(is_unbiased)
        .map(|(at, _)| {
            let line = code[..at].matches('\n').count() + 1;
            Violation::new(
                format!("{}:{line}", file.path),
                "`select!` without `biased`",
            )
        })
        .collect()
}

/// Finds examples in the documentation that are marked as ignored.
fn ignored_examples(file: &File) -> Vec<Violation> {
    let is_ignored = |line: &str| {
        let line = line.trim_start();
        let comment = line
            .strip_prefix("///")
            .or_else(|| line.strip_prefix("//!"));
        let fence = comment.and_then(|comment| comment.trim_start().strip_prefix("```"));
        fence.is_some_and(|tags| {
            tags.split(',')
                .any(|tag| matches!(tag.trim(), "ignore" | "should_panic"))
        })
    };
    let lines = file.text.lines().enumerate();
    lines
        .filter(|(_, line)| is_ignored(line))
        .map(|(index, _)| {
            let place = format!("{}:{}", file.path, index + 1);
            Violation::new(
                place,
                "examples in documentation must run, or be marked as text",
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let file = File::new("a.rs", text);
        violations(&file).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn forbidden_code_is_allowed_in_comments_and_strings() {
        let text =
            "//! A module.\n// todo!() and #[ignore] in a comment\nfn f() { g(\"todo!()\") }\n";
        assert_eq!(found(text), Vec::<String>::new());
    }

    #[test]
    fn missing_module_docs_are_a_violation() {
        assert_eq!(found("fn f() {}\n").len(), 1);
        assert_eq!(found("//!\nfn f() {}\n").len(), 1);
        assert_eq!(found("").len(), 1);
    }

    #[test]
    fn source_file_length_is_limited_without_counting_tests() {
        let body = "//! A module.\n".to_owned() + &"fn f() {}\n".repeat(499);
        assert_eq!(found(&body), Vec::<String>::new());
        assert!(found(&format!("{body}fn f() {{}}\n"))[0].contains("501 lines"));
        let tests = "#[cfg(test)]\nmod tests {\n".to_owned() + &"fn f() {}\n".repeat(300) + "}\n";
        assert_eq!(found(&format!("{body}{tests}")), Vec::<String>::new());
        let early = format!("{body}#[cfg(test)]\nfn helper() {{}}\n");
        assert!(found(&early)[0].contains("502 lines"));
    }

    #[test]
    fn forbidden_code_is_reported_with_its_line() {
        for (word, _) in FORBIDDEN {
            let close = if word.ends_with('(') {
                "dead_code)]"
            } else {
                ""
            };
            let text = format!("//! A module.\n\n    {word}{close}\n");
            let found = found(&text);
            assert_eq!(found.len(), 1, "{word}: {found:?}");
            assert!(found[0].starts_with("a.rs:3: "), "{found:?}");
        }
        assert_eq!(found("//! A module.\nmy_todo!();\n"), Vec::<String>::new());
    }

    #[test]
    fn select_without_biased_is_a_violation() {
        let select = |body: &str| format!("//! A module.\nfn f() {{\n tokio::select! {body} }}\n");
        assert_eq!(
            found(&select("{\n biased;\n _ = a => {} }")),
            Vec::<String>::new()
        );
        assert!(found(&select("{\n _ = a => {} }"))[0].starts_with("a.rs:3: "));
        assert_eq!(found(&select("{ // biased\n _ = a => {} }")).len(), 1);
    }

    #[test]
    fn ignored_documentation_example_is_a_violation() {
        assert_eq!(
            found("//! A module.\n//! ```rust,ignore\n//! f()\n//! ```\n").len(),
            1
        );
        assert_eq!(
            found("//! A module.\n//! ```text\n//! f()\n//! ```\n"),
            Vec::<String>::new()
        );
    }
}
