//! The rules on Rust files: how they open, how long they are, and what they never contain.

use super::Violation;
use super::files::File;
use super::lexer::code_only;

/// Lines that a file may have before its tests.
const LONGEST: usize = 500;

/// What never stands in code, and what to write instead. Built from halves, so that this file passes its own rule.
const REFUSED: &[(&str, &str)] = &[
    ("#[ignore", "a test that does not run proves nothing"),
    ("#[should_panic", "assert on the error instead"),
    ("todo!", "finish it or leave it out"),
    ("unimplemented!", "finish it or leave it out"),
    ("#[allow(", "write #[expect(.., reason = \"..\")]"),
    ("#![allow(", "write #![expect(.., reason = \"..\")]"),
];

/// Everything that is wrong with one Rust file.
pub(crate) fn violations(file: &File) -> Vec<Violation> {
    let code = code_only(&file.text);
    let mut found = Vec::new();
    found.extend(opening(file));
    found.extend(length(file));
    found.extend(refused(file, &code));
    found.extend(unbiased(file, &code));
    found.extend(ignored_examples(file));
    found
}

fn opening(file: &File) -> Option<Violation> {
    let first = file.text.lines().next().unwrap_or_default();
    let says_something = first
        .strip_prefix("//!")
        .is_some_and(|rest| !rest.trim().is_empty());
    (!says_something).then(|| {
        Violation::new(
            &file.path,
            "does not open with a `//!` line that says what it is for",
        )
    })
}

fn length(file: &File) -> Option<Violation> {
    let lines: Vec<&str> = file.text.lines().collect();
    let opens_tests = |pair: &[&str]| {
        pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
    };
    let tests = lines
        .windows(2)
        .position(opens_tests)
        .unwrap_or(lines.len());
    (tests > LONGEST).then(|| {
        Violation::new(
            &file.path,
            format!("has {tests} lines before its tests, {LONGEST} at most"),
        )
    })
}

fn refused(file: &File, code: &str) -> Vec<Violation> {
    let mut found = Vec::new();
    for (index, line) in code.lines().enumerate() {
        for (word, instead) in REFUSED {
            if line
                .match_indices(word)
                .any(|(at, _)| is_word_start(line, at))
            {
                let place = format!("{}:{}", file.path, index + 1);
                found.push(Violation::new(
                    place,
                    format!("`{word}` is refused: {instead}"),
                ));
            }
        }
    }
    found
}

/// Whether what stands at `at` is not the tail of a longer name.
fn is_word_start(line: &str, at: usize) -> bool {
    !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
}

/// Calls of `select!` whose first word is not `biased`: without it the branch taken depends on a random number.
fn unbiased(file: &File, code: &str) -> Vec<Violation> {
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

/// Examples in documentation that are shown and never run are tests that are ignored.
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
                "an example in documentation must run, or be marked as text",
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
    fn a_plain_file_passes() {
        let text =
            "//! What for.\n// todo!() and #[ignore] in a comment\nfn f() { g(\"todo!()\") }\n";
        assert_eq!(found(text), Vec::<String>::new());
    }

    #[test]
    fn a_file_without_an_opening_line_is_refused() {
        assert_eq!(found("fn f() {}\n").len(), 1);
        assert_eq!(found("//!\nfn f() {}\n").len(), 1);
        assert_eq!(found("").len(), 1);
    }

    #[test]
    fn a_long_file_is_refused_and_its_tests_are_not_counted() {
        let body = "//! What for.\n".to_owned() + &"fn f() {}\n".repeat(499);
        assert_eq!(found(&body), Vec::<String>::new());
        assert!(found(&format!("{body}fn f() {{}}\n"))[0].contains("501 lines"));
        let tests = "#[cfg(test)]\nmod tests {\n".to_owned() + &"fn f() {}\n".repeat(300) + "}\n";
        assert_eq!(found(&format!("{body}{tests}")), Vec::<String>::new());
        let early = format!("{body}#[cfg(test)]\nfn helper() {{}}\n");
        assert!(found(&early)[0].contains("502 lines"));
    }

    #[test]
    fn each_refused_word_is_found_at_its_line() {
        for (word, _) in REFUSED {
            let close = if word.ends_with('(') {
                "dead_code)]"
            } else {
                ""
            };
            let text = format!("//! What for.\n\n    {word}{close}\n");
            let found = found(&text);
            assert_eq!(found.len(), 1, "{word}: {found:?}");
            assert!(found[0].starts_with("a.rs:3: "), "{found:?}");
        }
        assert_eq!(found("//! What for.\nmy_todo!();\n"), Vec::<String>::new());
    }

    #[test]
    fn select_must_be_biased() {
        let select = |body: &str| format!("//! What for.\nfn f() {{\n tokio::select! {body} }}\n");
        assert_eq!(
            found(&select("{\n biased;\n _ = a => {} }")),
            Vec::<String>::new()
        );
        assert!(found(&select("{\n _ = a => {} }"))[0].starts_with("a.rs:3: "));
        assert_eq!(found(&select("{ // biased\n _ = a => {} }")).len(), 1);
    }

    #[test]
    fn an_ignored_example_is_refused() {
        assert_eq!(
            found("//! What for.\n//! ```rust,ignore\n//! f()\n//! ```\n").len(),
            1
        );
        assert_eq!(
            found("//! What for.\n//! ```text\n//! f()\n//! ```\n"),
            Vec::<String>::new()
        );
    }
}
