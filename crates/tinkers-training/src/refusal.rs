//! Tells refusals that leave a request's sequence number free from failures after which the request may have been applied.

use tinkers_core::{Error, ErrorKind, Sent};

use crate::name_conflict::says_exists;
use crate::requests::Request;

/// Returns whether the failure of a request shows that the server did nothing with it and that its number is free.
pub(crate) fn leaves_number_free(error: &Error, request: &dyn Request) -> bool {
    match error.sent() {
        Sent::NotSent => true,
        Sent::MaybeSent => false,
        Sent::Answered => match error.kind() {
            // 499 (client closed the request) is the answer of a proxy, not of the server.
            ErrorKind::Rejected => error.status() != Some(499),
            ErrorKind::NotFound
            | ErrorKind::Authentication
            | ErrorKind::PermissionDenied
            | ErrorKind::Billing
            | ErrorKind::RateLimited => true,
            // Any other conflict is about the number, which was then used by an unknown request.
            ErrorKind::Conflict => request.saved_name().is_some() && says_exists(error),
            _ => false,
        },
    }
}
