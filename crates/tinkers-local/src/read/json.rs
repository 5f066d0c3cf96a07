//! JSON bodies. Malformed JSON is refused with 400, an invalid field with a 422 that names the field.

use http::StatusCode;
use serde::de::DeserializeOwned;

use super::Refusal;

/// Decodes a JSON request body, or returns the refusal of an invalid one.
pub(super) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    // Tracking the path of the current field is slow, so a body is decoded with it only after a first attempt failed.
    match serde_json::from_slice(body) {
        Ok(value) => Ok(value),
        Err(error) => Err(explain::<T>(body, &error)),
    }
}

/// Returns the refusal of a request body that is not a valid `T`. It names the invalid field by its path, and the reason.
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
    let path = found.path().to_string();
    let path = if path == "." { "" } else { path.as_str() };
    let reason = found.inner().to_string();
    Refusal::field(&with_missing(path, &reason), reason)
}

/// Returns the path of the field that an error is about. For a missing field, the decoder reports only the path `path` of the
/// enclosing object, so the name of the field is taken from `reason` and appended.
fn with_missing(path: &str, reason: &str) -> String {
    let missing = reason
        .strip_prefix("missing field `")
        .and_then(|rest| rest.split_once('`'));
    match missing {
        Some((name, _)) if path.is_empty() => name.to_owned(),
        Some((name, _)) => format!("{path}.{name}"),
        None => path.to_owned(),
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
        let response = refusal.into_response().encode();
        (
            response.status.as_u16(),
            error_text(&response.body).unwrap(),
        )
    }

    #[test]
    fn invalid_field_gets_a_422_and_malformed_json_a_400() {
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
