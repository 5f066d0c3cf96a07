//! Decoding of responses to submissions.

use tinkers_core::{Error, ErrorKind, HttpResponse, Result, Sent};
use tinkers_wire::{OperationResult, PollResponse, SubmissionResponse};

use crate::failure::operation_failed;

/// Decodes the response to the submission of a request, which contains the id that the server assigned to the request.
///
/// # Errors
/// `OperationFailed` if the response reports a failure, and `Protocol` if it contains no request id for another reason.
pub fn read_submission(response: &HttpResponse) -> Result<SubmissionResponse> {
    SubmissionResponse::read(&response.body).map_err(|error| {
        let error = match PollResponse::failure_in(&response.body) {
            Some(PollResponse::Failed { error, category }) => operation_failed(&error, category),
            _ => {
                let message = format!("the submission response carries no request id: {error}");
                Error::new(ErrorKind::Protocol, Sent::Answered, message)
            }
        };
        error.with_response(response.status.as_u16(), &response.body)
    })
}

/// The response to the submission of a request: usually a request id, and on some servers the result itself.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "callers handle both")]
pub enum SubmissionOutcome<T> {
    /// The server has accepted the request. The result is fetched later.
    Accepted(SubmissionResponse),
    /// The server has completed the request.
    Completed(T),
}

/// Decodes the response to the submission of a request, which contains the id that the server assigned to the request, or the result.
///
/// # Errors
/// Those of [`read_submission`].
pub fn read_submission_or_result<T: OperationResult>(
    response: &HttpResponse,
) -> Result<SubmissionOutcome<T>> {
    match read_submission(response) {
        Ok(accepted) => Ok(SubmissionOutcome::Accepted(accepted)),
        Err(error) => result_in(response)
            .map(SubmissionOutcome::Completed)
            .ok_or(error),
    }
}

/// Returns the result that the response to a submission contains in place of a request id. Returns `None` if there is none.
fn result_in<T: OperationResult>(response: &HttpResponse) -> Option<T> {
    match PollResponse::read(response.header("content-type"), response.body.clone()) {
        Ok(PollResponse::Protobuf(body)) if !body.is_empty() => T::from_protobuf(body).ok(),
        // An empty object is a result of some operations, but no proof of one.
        Ok(PollResponse::Json(body)) if body.trim_ascii() != b"{}" => T::from_json(&body).ok(),
        _ => None,
    }
}

/// Returns whether the response to the submission of a request can be decoded, either as a request id or as a result. Used as
/// [`Call::is_readable`](tinkers_core::Call::is_readable).
pub fn is_submission_or_result<T: OperationResult>(response: &HttpResponse) -> bool {
    is_submission(response) || result_in::<T>(response).is_some()
}

/// Returns whether the response to the submission of a request can be decoded. Used as
/// [`Call::is_readable`](tinkers_core::Call::is_readable), which decides whether the submission is retried.
pub fn is_submission(response: &HttpResponse) -> bool {
    // A response that states a failure is no corrupted response.
    SubmissionResponse::read(&response.body).is_ok()
        || PollResponse::failure_in(&response.body).is_some()
}
