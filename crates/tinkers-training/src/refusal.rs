//! Distinguishes rejections, after which the sequence number of the request is free, from failures of requests that may have been applied.

use tinkers_core::{Error, ErrorKind, Sent};

use crate::name_conflict::says_exists;
use crate::requests::Request;

/// Returns whether `error` shows that the server did not apply `request`, so that the sequence number of the request can be used again.
pub(crate) fn leaves_number_free(error: &Error, request: &dyn Request) -> bool {
    match error.sent() {
        Sent::NotSent => true,
        Sent::MaybeSent => false,
        Sent::Answered => match error.kind() {
            // 499 (client closed the request) is the response of a proxy, not of the server.
            ErrorKind::Rejected => error.status() != Some(499),
            ErrorKind::NotFound
            | ErrorKind::Authentication
            | ErrorKind::PermissionDenied
            | ErrorKind::Billing
            | ErrorKind::RateLimited => true,
            // Any other conflict is about the sequence number, which an unknown request has used.
            ErrorKind::Conflict => request.saved_name().is_some() && says_exists(error),
            _ => false,
        },
    }
}
