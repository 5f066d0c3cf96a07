//! A minimal Rust lexer. It distinguishes code from comments and literals.

/// Replaces comments, strings and character literals by spaces. Line breaks are kept, so that line
/// numbers do not change.
pub(crate) fn code_only(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut code = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(source, at);
        match end {
            Some(end) => {
                code.extend(
                    bytes[at..end]
                        .iter()
                        .map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }),
                );
                at = end;
            }
            None => {
                code.push(bytes[at]);
                at += 1;
            }
        }
    }
    // Each literal is replaced as a whole, so the result is valid UTF-8.
    String::from_utf8(code).unwrap_or_default()
}

/// Returns the name of the function that a line defines, or `None` if it defines none.
pub(crate) fn function_name(line: &str) -> Option<&str> {
    let (before, rest) = line.split_once("fn ")?;
    let is_word = before.is_empty() || before.ends_with(' ');
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
    is_word.then_some(&rest[..end])
}

/// Returns the end offset of the comment or literal that starts at the offset `at`. Returns `None`
/// if no comment or literal starts there.
fn literal_end(source: &str, at: usize) -> Option<usize> {
    let bytes = source.as_bytes();
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        let length = rest
            .iter()
            .position(|byte| *byte == b'\n')
            .unwrap_or(rest.len());
        return Some(at + length);
    }
    if rest.starts_with(b"/*") {
        return Some(at + block_comment(rest));
    }
    if rest[0] == b'"' {
        return Some(at + quoted(rest, b'"'));
    }
    if rest[0] == b'\'' {
        return character(source, at);
    }
    let follows_name = at > 0 && is_name(bytes[at - 1]);
    if rest[0] == b'r' && (!follows_name || is_raw_prefix(bytes, at)) {
        return raw_string(rest).map(|length| at + length);
    }
    None
}

/// Returns whether the `r` at the offset `at` belongs to the literal prefix `br` or `cr`.
fn is_raw_prefix(bytes: &[u8], at: usize) -> bool {
    matches!(bytes[at - 1], b'b' | b'c') && (at < 2 || !is_name(bytes[at - 2]))
}

fn block_comment(rest: &[u8]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Returns the end offset of the character literal that starts at the quote at the offset `at`.
/// Returns `None` if a lifetime starts there.
fn character(source: &str, at: usize) -> Option<usize> {
    let mut following = source[at + 1..].chars();
    let first = following.next()?;
    if first == '\\' {
        return Some(at + quoted(&source.as_bytes()[at..], b'\''));
    }
    (following.next() == Some('\'')).then_some(at + 1 + first.len_utf8() + 1)
}

fn raw_string(rest: &[u8]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.extend(std::iter::repeat_n(b'#', hashes));
    let body = 2 + hashes;
    let end = rest[body..]
        .windows(close.len())
        .position(|window| window == close);
    Some(end.map_or(rest.len(), |end| body + end + close.len()))
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_words(source: &str) -> String {
        code_only(source)
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn removing_comments_does_not_change_line_numbers() {
        assert_eq!(code_words("a // b\nc /* d /* e */ f */ g"), "a c g");
        assert_eq!(code_only("/* a\nb */\nc").lines().count(), 3);
    }

    #[test]
    fn string_literals_of_every_kind_are_removed() {
        assert_eq!(
            code_words(r#"f("a \" b", b"c", c"d") + e"#),
            "f( , b , c ) + e"
        );
        assert_eq!(
            code_words("x(r#\"a \" b\"#, br\"c\", r\"d\") y"),
            "x( , b , ) y"
        );
        assert_eq!(code_words("\"é\" + 'é' + '\\'' + '\"' z"), "+ + + z");
    }

    #[test]
    fn lifetimes_and_names_ending_in_r_count_as_code() {
        assert_eq!(
            code_words("fn f<'a>(x: &'a str) -> Cow<'a, str>"),
            "fn f<'a>(x: &'a str) -> Cow<'a, str>"
        );
        assert_eq!(
            code_words("for r in bar { r#type }"),
            "for r in bar { r#type }"
        );
    }

    #[test]
    fn unclosed_literals_extend_to_the_end_of_the_file() {
        assert_eq!(code_words("a \"b c"), "a");
        assert_eq!(code_words("a /* b c"), "a");
        assert_eq!(code_words("a r#\"b c"), "a");
    }
}
