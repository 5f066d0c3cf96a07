//! The rules on every text file: no path of one machine, nothing that looks like a key.

use super::Violation;
use super::files::File;

/// What only means something on one machine. Written in halves, so that this file passes its own rule.
const MACHINE: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("../sha", "red"),
];

/// How a key of the hosted service begins, and how many letters and digits behind it make one.
const KEY: (&str, usize) = ("tml-", 20);

/// Machine paths and key-like literals, with their lines.
pub(crate) fn violations(file: &File) -> Vec<Violation> {
    let mut found = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        let place = format!("{}:{}", file.path, index + 1);
        if let Some(path) = MACHINE.iter().find(|path| line.contains(**path)) {
            found.push(Violation::new(
                &place,
                format!("`{path}` is a path of one machine"),
            ));
        }
        if has_key(line) {
            found.push(Violation::new(place, "holds what looks like an API key"));
        }
    }
    found
}

fn has_key(line: &str) -> bool {
    let (prefix, length) = KEY;
    let is_key = |(at, _): (usize, &str)| {
        let rest = line[at + prefix.len()..].bytes();
        rest.take_while(u8::is_ascii_alphanumeric).count() >= length
    };
    line.match_indices(prefix).any(is_key)
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
    fn plain_text_and_short_test_keys_pass() {
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
    fn paths_of_one_machine_are_refused() {
        for path in MACHINE {
            let found = found(&format!("fine\nsee {path}x\n"));
            assert_eq!(found.len(), 1, "{path}");
            assert!(found[0].starts_with("a.md:2: "));
        }
    }

    #[test]
    fn a_key_is_refused() {
        let letters = "Ab1".repeat(7);
        assert_eq!(found(&format!("key = \"tml-{letters}\"")).len(), 1);
        assert_eq!(
            found(&format!("key = \"tml-{}\"", &letters[..19])),
            Vec::<String>::new()
        );
        assert_eq!(found(&format!("tml-x tml-{letters}")).len(), 1);
    }
}
