//! Errors of operations that failed on the server.

use bytes::Bytes;
use tinkers_core::call::response_error;
use tinkers_core::{Error, ErrorKind, HttpResponse, Sent};
use tinkers_wire::{FailureCategory, error_text};

/// Returns the error of a failed operation, with the message and category from the server.
pub(crate) fn operation_failed(text: &str, category: FailureCategory) -> Error {
    let advice = if category == FailureCategory::Server {
        "; it may succeed if submitted again"
    } else {
        ""
    };
    let message = format!("{text}{advice}");
    Error::new(ErrorKind::OperationFailed, Sent::Answered, message).with_category(category)
}

/// Returns the error of an operation from the response to a poll that is not retried. Some servers report a failed operation by the
/// response status, with a reason in the body.
pub(crate) fn final_response(kind: ErrorKind, response: &HttpResponse) -> Error {
    let category = match response.status.as_u16() {
        400 | 422 => FailureCategory::User,
        500 => FailureCategory::Server,
        _ => return response_error(kind, response),
    };
    let Some(text) = error_text(&response.body) else {
        return response_error(kind, response);
    };
    let error = Error::new(ErrorKind::OperationFailed, Sent::Answered, text);
    with_response(error.with_category(category), response)
}

/// Adds the status and the body of a response to an error. A protobuf body is left out, since it is not readable.
pub(crate) fn with_response(error: Error, response: &HttpResponse) -> Error {
    let is_text = response
        .header("content-type")
        .is_none_or(|kind| !kind.contains("protobuf"));
    let body = if is_text {
        response.body.clone()
    } else {
        Bytes::new()
    };
    error.with_response(response.status.as_u16(), &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_text_suggests_to_submit_again_only_after_server_failures() {
        for (category, is_suggested) in [
            (FailureCategory::Server, true),
            (FailureCategory::User, false),
        ] {
            let text = operation_failed("node lost", category).to_string();
            assert_eq!(text.contains("submitted again"), is_suggested, "{text}");
        }
    }
}
