//! Decoding of response bodies: lenient JSON, error messages of servers, and decode errors.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// The error for a request or response body that cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DecodeError {
    message: String,
}

impl DecodeError {
    /// Creates a decode error. The message should be lower-case and without a full stop, such as `cannot decode the tokens: odd length`.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
        }
    }

    /// Appends the start of `body` to the error message, so that the user sees what could not be decoded.
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
        Self::new(format!("cannot decode the JSON: {error}"))
    }
}

impl From<prost::DecodeError> for DecodeError {
    fn from(error: prost::DecodeError) -> Self {
        Self::new(format!("cannot decode the protobuf: {error}"))
    }
}

/// Decodes JSON. Accepts the literals `NaN`, `Infinity` and `-Infinity`, which are not JSON but are written by Python's encoder.
pub(crate) fn read_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, DecodeError> {
    let error = match serde_json::from_slice(body) {
        Ok(decoded) => return Ok(decoded),
        Err(error) => error,
    };
    match quote_literals(body) {
        Cow::Owned(quoted) => Ok(serde_json::from_slice(&quoted)?),
        Cow::Borrowed(_) => Err(error.into()),
    }
}

/// Replaces the literals `NaN`, `Infinity` and `-Infinity` with strings, so that the body becomes JSON. Returns the body unchanged if it
/// contains no such literal.
pub(crate) fn quote_literals(body: &[u8]) -> Cow<'_, [u8]> {
    const LITERALS: [&[u8]; 3] = [b"NaN", b"-Infinity", b"Infinity"];
    let mut quoted = Vec::new();
    let (mut copied, mut at, mut in_string) = (0, 0, false);
    while at < body.len() {
        match body[at] {
            b'"' => in_string = !in_string,
            b'\\' if in_string => at += 1,
            b'N' | b'-' | b'I' if !in_string => {
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

/// The maximum length, in characters, of an error message that is taken from a response body. A longer message is truncated.
const MAX_REASON_LEN: usize = 600;
/// The maximum number of characters of a response body that are quoted in an error message.
const MAX_EXCERPT_LEN: usize = 200;

/// The JSON fields in which servers send an error message. The preferred field comes first.
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

/// Returns the error message in a response body, as one line of at most 600 characters without control characters.
///
/// In JSON the message is the text of a field such as `error_message`, `detail` or `error`, also in nested objects and lists; a sentence is
/// preferred to an error code. A plain text body is the message as a whole. Returns `None` for HTML pages and bodies without a message.
pub fn error_text(body: &[u8]) -> Option<String> {
    let text = match read_json::<Value>(body) {
        Ok(value) => reason(&value)?,
        Err(_) => std::str::from_utf8(body).ok()?.to_owned(),
    };
    let text = on_one_line(&text, MAX_REASON_LEN);
    (!text.is_empty() && !text.starts_with('<')).then_some(text)
}

/// Returns the start of a response body for use in an error message: one line of at most 200 characters without control characters.
pub fn excerpt(body: &[u8]) -> String {
    let start = &body[..body.len().min(4 * MAX_EXCERPT_LEN)];
    match on_one_line(&String::from_utf8_lossy(start), MAX_EXCERPT_LEN) {
        text if text.is_empty() => "an empty body".to_owned(),
        text => text,
    }
}

fn on_one_line(text: &str, max_len: usize) -> String {
    let is_space = |c: char| c.is_whitespace() || c.is_control();
    let words: Vec<&str> = text
        .split(is_space)
        .filter(|word| !word.is_empty())
        .collect();
    words.join(" ").chars().take(max_len).collect()
}

/// Returns the error message that a JSON value of an error body contains, or `None` if it contains none.
pub(crate) fn reason(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => (!text.trim().is_empty()).then(|| text.clone()),
        Value::Array(errors) => {
            let reasons: Vec<String> = errors.iter().take(5).filter_map(reason).collect();
            (!reasons.is_empty()).then(|| reasons.join("; "))
        }
        Value::Object(map) => validation_error(map).or_else(|| {
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

/// Formats a validation error of a FastAPI server, an object with `loc` and `msg`, as `path.to.field: message`. Returns `None` for other objects.
fn validation_error(map: &Map<String, Value>) -> Option<String> {
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
        field if field.is_empty() => message.to_owned(),
        field => format!("{field}: {message}"),
    })
}

/// Returns the retry delay of the server in milliseconds: the field `retry_after_ms` of an error body, at the top level or in `detail` or
/// `error`.
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
    fn error_text_is_found_in_the_error_bodies_of_all_servers() {
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
    fn error_text_is_truncated_and_has_no_control_characters() {
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
    fn nan_and_infinity_literals_are_accepted_outside_strings() {
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
    fn retry_after_ms_in_an_error_body_may_be_a_string() {
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
