//! Decoding of responses to submissions.

use tinkers_core::{Error, ErrorKind, HttpResponse, Result, Sent};
use tinkers_wire::{PollResponse, SubmissionResponse};

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

/// Returns whether the response to the submission of a request can be decoded. Used as
/// [`Call::is_readable`](tinkers_core::Call::is_readable), which decides whether the submission is retried.
pub fn is_submission(response: &HttpResponse) -> bool {
    SubmissionResponse::read(&response.body).is_ok()
}
