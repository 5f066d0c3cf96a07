//! Reading what servers answer: JSON as any encoder writes it, errors in the server's own words, and answers that cannot be read.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// An answer that cannot be read as what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DecodeError {
    message: String,
}

impl DecodeError {
    /// `message` says what is wrong with the answer, as a lower-case fragment.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
        }
    }

    /// Adds the beginning of the answer, so that a person can see what the server sent.
    pub(crate) fn quoting(self, body: &[u8]) -> Self {
        Self::new(format!(
            "{}; the server sent: {}",
            self.message,
            excerpt(body)
        ))
    }
}

impl From<serde_json::Error> for DecodeError {
    fn from(error: serde_json::Error) -> Self {
        Self::new(format!("unreadable JSON: {error}"))
    }
}

impl From<prost::DecodeError> for DecodeError {
    fn from(error: prost::DecodeError) -> Self {
        Self::new(format!("unreadable protobuf: {error}"))
    }
}

/// Reads JSON in which floats may be `NaN`, `Infinity` and `-Infinity`, as Python's encoder writes them.
pub(crate) fn read_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, DecodeError> {
    let error = match serde_json::from_slice(body) {
        Ok(read) => return Ok(read),
        Err(error) => error,
    };
    match quote_literals(body) {
        Cow::Owned(quoted) => Ok(serde_json::from_slice(&quoted)?),
        Cow::Borrowed(_) => Err(error.into()),
    }
}

/// Puts `NaN`, `Infinity` and `-Infinity` between quotes, where they stand outside of texts. Borrowed when there is none.
pub(crate) fn quote_literals(body: &[u8]) -> Cow<'_, [u8]> {
    const LITERALS: [&[u8]; 3] = [b"NaN", b"-Infinity", b"Infinity"];
    let mut quoted = Vec::new();
    let (mut copied, mut at, mut in_text) = (0, 0, false);
    while at < body.len() {
        match body[at] {
            b'"' => in_text = !in_text,
            b'\\' if in_text => at += 1,
            b'N' | b'-' | b'I' if !in_text => {
                let rest = &body[at..];
                if let Some(literal) = LITERALS.iter().find(|literal| rest.starts_with(literal)) {
                    quoted.extend_from_slice(&body[copied..at]);
                    quoted.push(b'"');
                    quoted.extend_from_slice(literal);
                    quoted.push(b'"');
                    at += literal.len();
                    copied = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    if copied == 0 {
        return Cow::Borrowed(body);
    }
    quoted.extend_from_slice(&body[copied..]);
    Cow::Owned(quoted)
}

/// The most characters of a reason.
const LONGEST_REASON: usize = 600;
/// The most characters of an excerpt.
const LONGEST_EXCERPT: usize = 200;

/// Where servers put the reason of an error.
const REASONS: [&str; 10] = [
    "error_message",
    "detail",
    "error",
    "message",
    "msg",
    "reason",
    "error_description",
    "description",
    "errors",
    "title",
];

/// Returns the reason that a server gives in an error body: the text of `error_message`, `detail`, `error`, `message`, `msg`, `reason`,
/// `error_description`, `description`, `errors` or `title`, also inside of objects and lists of these, else a body of plain text. A
/// sentence is preferred to a bare code. At most 600 characters, on one line and without control characters; `None` for a page.
pub fn error_text(body: &[u8]) -> Option<String> {
    let text = match read_json::<Value>(body) {
        Ok(value) => reason(&value)?,
        Err(_) => std::str::from_utf8(body).ok()?.to_owned(),
    };
    let text = on_one_line(&text, LONGEST_REASON);
    (!text.is_empty() && !text.starts_with('<')).then_some(text)
}

/// Returns the beginning of a body for an error message: one line without control characters, at most 200 characters.
pub fn excerpt(body: &[u8]) -> String {
    let start = &body[..body.len().min(4 * LONGEST_EXCERPT)];
    match on_one_line(&String::from_utf8_lossy(start), LONGEST_EXCERPT) {
        text if text.is_empty() => "an empty body".to_owned(),
        text => text,
    }
}

fn on_one_line(text: &str, longest: usize) -> String {
    let is_space = |c: char| c.is_whitespace() || c.is_control();
    let words: Vec<&str> = text
        .split(is_space)
        .filter(|word| !word.is_empty())
        .collect();
    words.join(" ").chars().take(longest).collect()
}

/// The reason in the value of an error body.
pub(crate) fn reason(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => (!text.trim().is_empty()).then(|| text.clone()),
        Value::Array(findings) => {
            let findings: Vec<String> = findings.iter().take(5).filter_map(reason).collect();
            (!findings.is_empty()).then(|| findings.join("; "))
        }
        Value::Object(map) => finding(map).or_else(|| {
            let mut reasons = REASONS.iter().filter_map(|key| reason(map.get(*key)?));
            let first = reasons.next()?;
            let is_sentence = |text: &String| text.trim().contains(char::is_whitespace);
            if is_sentence(&first) {
                return Some(first);
            }
            Some(reasons.find(is_sentence).unwrap_or(first))
        }),
        _ => None,
    }
}

/// One finding of a validator, as `path.to.field: what is wrong`.
fn finding(map: &Map<String, Value>) -> Option<String> {
    let message = map.get("msg")?.as_str()?;
    let parts = map.get("loc")?.as_array()?;
    let parts: Vec<String> = parts
        .iter()
        .map(|part| {
            part.as_str()
                .map_or_else(|| part.to_string(), str::to_owned)
        })
        .filter(|part| part != "body")
        .collect();
    Some(match parts.join(".") {
        place if place.is_empty() => message.to_owned(),
        place => format!("{place}: {message}"),
    })
}

/// `retry_after_ms` of a refusal's body, at the top or inside `detail` or `error`.
pub fn retry_after_ms(body: &[u8]) -> Option<f64> {
    let value: Value = read_json(body).ok()?;
    let read = |value: &Value| crate::numbers::number(value.get("retry_after_ms")?);
    let inner = |key: &str| read(value.get(key)?);
    read(&value)
        .or_else(|| inner("detail"))
        .or_else(|| inner("error"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_read_in_every_form_that_servers_use() {
        let rows: [(&str, Option<&str>); 21] = [
            (
                r#"{"detail": "Future not found"}"#,
                Some("Future not found"),
            ),
            (
                r#"{"detail": [{"type": "missing", "loc": ["body", "request_id"], "msg": "Field required", "input": {}}]}"#,
                Some("request_id: Field required"),
            ),
            (
                r#"{"detail": {"loc": ["body"], "msg": "Field required"}}"#,
                Some("Field required"),
            ),
            (r#"{"detail": [{"loc": 7, "msg": "no"}]}"#, Some("no")),
            (
                r#"{"detail": {"error": {"code": "no_model", "reason": "m is not served"}}}"#,
                Some("m is not served"),
            ),
            (
                r#"{"type": "RequestFailedResponse", "error_message": "CUDA out of memory"}"#,
                Some("CUDA out of memory"),
            ),
            (r#"{"error": {"message": "too many"}}"#, Some("too many")),
            (r#"{"error": "out of room"}"#, Some("out of room")),
            (
                r#"{"error": "invalid_request", "message": "the rank is too high"}"#,
                Some("the rank is too high"),
            ),
            (r#"{"error": "invalid_request"}"#, Some("invalid_request")),
            (
                r#"{"title": "Not Found", "detail": "no such model"}"#,
                Some("no such model"),
            ),
            (
                r#"{"title": "Not Found", "status": 404}"#,
                Some("Not Found"),
            ),
            (
                r#"{"errors": [{"message": "no such model"}, {"message": "nor key"}]}"#,
                Some("no such model; nor key"),
            ),
            (r#"{"detail": null, "message": "no"}"#, Some("no")),
            (r#"{"reason": "no room", "loss": NaN}"#, Some("no room")),
            (r#"{"message": "no"}"#, Some("no")),
            ("Internal Server Error\n", Some("Internal Server Error")),
            ("<html>gateway</html>", None),
            ("", None),
            ("{}", None),
            (r#"{"detail": "  "}"#, None),
        ];
        for (body, expected) in rows {
            assert_eq!(error_text(body.as_bytes()).as_deref(), expected, "{body}");
        }
    }

    #[test]
    fn a_reason_is_bounded_and_has_no_control_characters() {
        let body = "x".repeat(100_000);
        assert_eq!(
            error_text(body.as_bytes()).map(|text| text.len()),
            Some(600)
        );
        let body = "{\"detail\": \"Traceback:\\n  line 1\\u001b[31m\\r\\nMemoryError\"}";
        let text = error_text(body.as_bytes());
        assert_eq!(text.as_deref(), Some("Traceback: line 1 [31m MemoryError"));
        assert_eq!(
            excerpt(&b"\xff\x00 page ".repeat(1000)).chars().count(),
            200
        );
        assert_eq!(excerpt(b" \n"), "an empty body");
    }

    #[test]
    fn literals_that_json_lacks_are_read_outside_of_texts_alone() {
        let body = br#"{"a\"NaN": [NaN, -Infinity, Infinity, -1], "b": "NaN \\"}"#;
        let read: Value = read_json(body).unwrap();
        let expected = serde_json::json!({
            "a\"NaN": ["NaN", "-Infinity", "Infinity", -1],
            "b": "NaN \\",
        });
        assert_eq!(read, expected);
        assert!(matches!(quote_literals(b"[-1, \"NaN\"]"), Cow::Borrowed(_)));
        for bad in ["[Nan]", "[NaN", "[NaNaN]", "[+Infinity]"] {
            assert!(read_json::<Value>(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_hint_in_the_body_may_be_a_text() {
        for (body, expected) in [
            (r#"{"retry_after_ms": 750}"#, Some(750.0)),
            (r#"{"retry_after_ms": "750"}"#, Some(750.0)),
            (r#"{"detail": {"retry_after_ms": 5}}"#, Some(5.0)),
            (r#"{"retry_after_ms": "soon"}"#, None),
        ] {
            assert_eq!(retry_after_ms(body.as_bytes()), expected, "{body}");
        }
    }
}
