//! Reading answers of the server into what was asked for.

use serde::de::DeserializeOwned;
use tinkers_core::{Error, ErrorKind, HttpResponse, Sent};

/// Reads a JSON object. `what` names the request, for the error.
pub(crate) fn read<T: DeserializeOwned>(answer: &HttpResponse, what: &str) -> Result<T, Error> {
    // Any struct could also be read from a list; no Tinker server answers with one.
    if !is_object(&answer.body) {
        return Err(unreadable(answer, what, "expected a JSON object"));
    }
    serde_json::from_slice(&answer.body)
        .map_err(|error| unreadable(answer, what, &error.to_string()))
}

/// Whether a body looks like a JSON object.
pub(crate) fn is_object(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"{")
        && serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok()
}

fn unreadable(answer: &HttpResponse, what: &str, why: &str) -> Error {
    let message = format!("the answer to {what} cannot be read: {why}");
    Error::new(ErrorKind::Protocol, Sent::Answered, message)
        .with_answer(answer.status.as_u16(), &answer.body)
}
