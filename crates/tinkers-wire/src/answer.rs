//! Reading what servers answer: errors in their own words, and answers that cannot be read.

use serde_json::Value;

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

/// The reason that a server gives in an error body: `detail`, `error` or `message`, as text or as a list of findings, else
/// the start of a plain text. At most 600 characters.
pub fn error_text(body: &[u8]) -> Option<String> {
    let text = match serde_json::from_slice::<Value>(body) {
        Ok(value) => reason(&value)?,
        Err(_) => std::str::from_utf8(body).ok()?.trim().to_owned(),
    };
    if text.is_empty() || text.starts_with('<') {
        return None;
    }
    Some(text.chars().take(600).collect())
}

fn reason(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(findings) => {
            let findings: Vec<String> = findings.iter().take(5).filter_map(finding).collect();
            (!findings.is_empty()).then(|| findings.join("; "))
        }
        Value::Object(map) => ["detail", "error", "message", "msg"]
            .iter()
            .find_map(|key| reason(map.get(*key)?)),
        _ => None,
    }
}

/// One finding of a validator, as `body.path.to.field: what is wrong`.
fn finding(value: &Value) -> Option<String> {
    let Some(message) = value.get("msg").and_then(Value::as_str) else {
        return reason(value);
    };
    let place = value.get("loc").and_then(Value::as_array).map(|parts| {
        let parts: Vec<String> = parts
            .iter()
            .map(|part| {
                part.as_str()
                    .map_or_else(|| part.to_string(), str::to_owned)
            })
            .filter(|part| part != "body")
            .collect();
        parts.join(".")
    });
    Some(match place.filter(|place| !place.is_empty()) {
        Some(place) => format!("{place}: {message}"),
        None => message.to_owned(),
    })
}

/// `retry_after_ms` of a refusal's body, at the top or inside `detail` or `error`.
pub fn retry_after_ms(body: &[u8]) -> Option<f64> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let inner = |key: &str| value.get(key)?.get("retry_after_ms")?.as_f64();
    value
        .get("retry_after_ms")
        .and_then(Value::as_f64)
        .or_else(|| inner("detail"))
        .or_else(|| inner("error"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_reasons_are_read_in_every_form_they_use() {
        let rows: [(&str, Option<&str>); 8] = [
            (
                r#"{"detail": "Future not found"}"#,
                Some("Future not found"),
            ),
            (
                r#"{"detail": [{"type": "missing", "loc": ["body", "request_id"], "msg": "Field required", "input": {}}]}"#,
                Some("request_id: Field required"),
            ),
            (r#"{"error": {"message": "too many"}}"#, Some("too many")),
            (r#"{"message": "no"}"#, Some("no")),
            ("Internal Server Error", Some("Internal Server Error")),
            ("<html>gateway</html>", None),
            ("", None),
            ("{}", None),
        ];
        for (body, expected) in rows {
            assert_eq!(error_text(body.as_bytes()).as_deref(), expected, "{body}");
        }
    }

    #[test]
    fn a_reason_is_bounded() {
        let body = "x".repeat(100_000);
        assert_eq!(
            error_text(body.as_bytes()).map(|text| text.len()),
            Some(600)
        );
    }
}
