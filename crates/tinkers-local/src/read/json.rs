//! JSON bodies: malformed is 400, well-formed but wrong is 422 and names the field.

use http::StatusCode;
use serde::de::DeserializeOwned;

use super::Refusal;

/// Reads a JSON body.
pub(super) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    // Finding the way to a field costs on every element, so only bodies that cannot be read are read that way.
    match serde_json::from_slice(body) {
        Ok(value) => Ok(value),
        Err(error) => Err(explain::<T>(body, &error)),
    }
}

/// Why `body` is not a `T`.
pub(super) fn explain<T: DeserializeOwned>(body: &[u8], error: &serde_json::Error) -> Refusal {
    if !error.is_data() {
        return Refusal::new(
            StatusCode::BAD_REQUEST,
            format!("the body is not JSON: {error}"),
        );
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let Err(found) = serde_path_to_error::deserialize::<_, T>(&mut reader) else {
        return Refusal::field("", error.to_string());
    };
    let way = found.path().to_string();
    let way = if way == "." { "" } else { way.as_str() };
    let reason = found.inner().to_string();
    Refusal::field(&with_missing(way, &reason), reason)
}

/// A missing field is named by the message alone; its way ends above it.
fn with_missing(way: &str, reason: &str) -> String {
    let missing = reason
        .strip_prefix("missing field `")
        .and_then(|rest| rest.split_once('`'));
    match missing {
        Some((name, _)) if way.is_empty() => name.to_owned(),
        Some((name, _)) => format!("{way}.{name}"),
        None => way.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinkers_wire::{OptimStep, SampleRequest, error_text};

    fn refused<T: DeserializeOwned>(body: &str) -> (u16, String) {
        let Err(refusal) = json::<T>(body.as_bytes()) else {
            panic!("{body} was read");
        };
        let answer = refusal.into_answer().into_response();
        (answer.status.as_u16(), error_text(&answer.body).unwrap())
    }

    #[test]
    fn the_field_is_named_and_malformed_is_told_from_wrong() {
        let (status, text) =
            refused::<OptimStep>(r#"{"model_id": "m", "adam_params": {"learning_rate": null}}"#);
        assert_eq!(status, 422);
        assert!(
            text.starts_with("adam_params.learning_rate: invalid type: null"),
            "{text}"
        );
        let (status, text) = refused::<OptimStep>(r#"{"adam_params": {"learning_rate": 1}}"#);
        assert_eq!(status, 422);
        assert!(text.starts_with("model_id: missing field"), "{text}");
        let (status, text) = refused::<SampleRequest>(
            r#"{"prompt": {"chunks": [{"type": "encoded_text", "tokens": [1, "a"]}]}}"#,
        );
        assert_eq!(status, 422);
        assert!(text.starts_with("prompt.chunks.0"), "{text}");
        let (status, text) = refused::<OptimStep>("{");
        assert_eq!(status, 400);
        assert!(text.contains("not JSON"), "{text}");
        assert_eq!(refused::<OptimStep>("").0, 400);
        assert_eq!(refused::<OptimStep>("[]").0, 422);
    }
}
