//! The rules on all text files: no local paths, no API keys, and no truncated text.

use super::Violation;
use super::files::File;

/// Beginnings of paths that exist only on one machine. They are concatenated from parts, so that
/// this file does not violate the rule.
const LOCAL_PATHS: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("../sha", "red"),
];

/// The prefix of API keys of the hosted service.
const KEY_PREFIX: &str = "tml-";
/// The minimum number of letters and digits after the prefix for a text to count as an API key.
/// Shorter keys are test keys.
const MIN_KEY_LEN: usize = 20;

/// Finds paths that exist only on one machine, and API keys. Also finds Rust sources and documents
/// whose last line has no line break, because such a file may be truncated.
pub(crate) fn violations(file: &File) -> Vec<Violation> {
    let mut found = Vec::new();
    let is_prose = file.path.ends_with(".md") || file.path.ends_with(".rs");
    if is_prose && !file.text.ends_with('\n') {
        found.push(Violation::new(&file.path, "does not end with a newline"));
    }
    for (index, line) in file.text.lines().enumerate() {
        let place = format!("{}:{}", file.path, index + 1);
        if let Some(path) = LOCAL_PATHS.iter().find(|path| line.contains(**path)) {
            found.push(Violation::new(&place, format!("`{path}` is a local path")));
        }
        if has_key(line) {
            found.push(Violation::new(place, "contains an API key"));
        }
    }
    found
}

fn has_key(line: &str) -> bool {
    let is_key = |(at, prefix): (usize, &str)| {
        let rest = line[at + prefix.len()..].bytes();
        rest.take_while(u8::is_ascii_alphanumeric).count() >= MIN_KEY_LEN
    };
    line.match_indices(KEY_PREFIX).any(is_key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        violations(&File::new("a.md", text))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn last_line_must_end_with_a_line_break() {
        assert_eq!(found("cut off")[0], "a.md: does not end with a newline");
        assert_eq!(found("complete\n"), [""; 0]);
    }

    #[test]
    fn short_api_keys_for_tests_are_allowed() {
        assert_eq!(
            found("see docs/ and set TINKER_API_KEY=tml-interop\n"),
            Vec::<String>::new()
        );
        assert_eq!(
            found("tml-this-is-spelled-with-dashes-and-harmless\n"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn local_paths_in_text_files_are_violations() {
        for path in LOCAL_PATHS {
            let found = found(&format!("fine\nsee {path}x\n"));
            assert_eq!(found.len(), 1, "{path}");
            assert!(found[0].starts_with("a.md:2: "));
        }
    }

    #[test]
    fn api_keys_in_text_files_are_violations() {
        let letters = "Ab1".repeat(7);
        assert_eq!(found(&format!("key = \"tml-{letters}\"\n")).len(), 1);
        assert_eq!(
            found(&format!("key = \"tml-{}\"\n", &letters[..19])),
            Vec::<String>::new()
        );
        assert_eq!(found(&format!("tml-x tml-{letters}\n")).len(), 1);
    }
}
