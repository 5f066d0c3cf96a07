//! Decoding of JSON responses.

use serde::de::DeserializeOwned;
use serde_json::error::Category;

use crate::error::{Error, ErrorKind, Sent};
use crate::response::HttpResponse;

/// Decodes a response body, which must be a JSON object. `request` is the name of the request in the error message.
///
/// # Errors
/// `Protocol` if the body is not such an object. The error contains the body.
pub fn decode<T: DeserializeOwned>(response: &HttpResponse, request: &str) -> Result<T, Error> {
    decode_object(response, request, |error| error.to_string())
        .map_err(|error| error.with_response(response.status.as_u16(), &response.body))
}

/// Decodes a response like [`decode`], for responses that contain secrets such as signed addresses: neither the error nor its body quotes
/// any value of the response.
///
/// # Errors
/// `Protocol` if the body is not a JSON object of this type.
pub fn decode_secret<T: DeserializeOwned>(
    response: &HttpResponse,
    request: &str,
) -> Result<T, Error> {
    decode_object(response, request, without_values)
        .map_err(|error| error.with_response(response.status.as_u16(), &bytes::Bytes::new()))
}

fn decode_object<T: DeserializeOwned>(
    response: &HttpResponse,
    request: &str,
    explain: impl Fn(&serde_json::Error) -> String,
) -> Result<T, Error> {
    let decoded = match is_object(&response.body) {
        true => serde_json::from_slice(&response.body).map_err(|error| explain(&error)),
        // serde would also decode a struct from an array, which no Tinker server sends.
        false => Err("expected a JSON object".to_owned()),
    };
    decoded.map_err(|cause| {
        let message = format!("cannot decode the response to {request}: {cause}");
        Error::new(ErrorKind::Protocol, Sent::Answered, message)
    })
}

/// Returns whether a response body is a complete JSON object.
pub fn is_object(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"{")
        && serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok()
}

/// Describes a decode error without the values that its own text may quote.
fn without_values(error: &serde_json::Error) -> String {
    let cause = match error.classify() {
        Category::Data => "a field is missing or has an unexpected value",
        Category::Syntax => "the JSON is invalid",
        Category::Eof => "the JSON is incomplete",
        Category::Io => "the body cannot be read",
    };
    let (line, column) = (error.line(), error.column());
    format!("{cause}, at line {line} column {column}")
}
