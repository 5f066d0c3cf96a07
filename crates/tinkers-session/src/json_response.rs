//! Decoding of JSON responses.

use serde::de::DeserializeOwned;
use tinkers_core::{Error, ErrorKind, HttpResponse, Sent};

/// Decodes a response body, which must be a JSON object. `request` is the name of the request in the error message.
pub(crate) fn decode<T: DeserializeOwned>(
    response: &HttpResponse,
    request: &str,
) -> Result<T, Error> {
    // serde would also decode a struct from an array, which no Tinker server sends.
    if !is_object(&response.body) {
        return Err(decode_error(response, request, "expected a JSON object"));
    }
    serde_json::from_slice(&response.body)
        .map_err(|error| decode_error(response, request, &error.to_string()))
}

/// Returns whether a response body is a complete JSON object.
pub(crate) fn is_object(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"{")
        && serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok()
}

fn decode_error(response: &HttpResponse, request: &str, cause: &str) -> Error {
    let message = format!("cannot decode the response to {request}: {cause}");
    Error::new(ErrorKind::Protocol, Sent::Answered, message)
        .with_response(response.status.as_u16(), &response.body)
}
