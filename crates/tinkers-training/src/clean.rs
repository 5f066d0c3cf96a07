//! What a failure says of the server: whether it did nothing with a part, so that its number is free.

use tinkers_core::{Error, ErrorKind, Sent};

use crate::parts::Part;
use crate::taken::says_taken;

/// Whether the failure of a part says that the server did nothing with it and that its number is free.
pub(crate) fn is_clean(error: &Error, part: &dyn Part) -> bool {
    match error.sent() {
        Sent::NotSent => true,
        Sent::MaybeSent => false,
        Sent::Answered => match error.kind() {
            // A client that has closed its side of the exchange (499) is a proxy's word, and not the server's.
            ErrorKind::Rejected => error.status() != Some(499),
            ErrorKind::NotFound
            | ErrorKind::Authentication
            | ErrorKind::PermissionDenied
            | ErrorKind::Billing
            | ErrorKind::RateLimited => true,
            // Else it is the number that was used before: by whom, and for what, is not known.
            ErrorKind::Conflict => part.saved_name().is_some() && says_taken(error),
            _ => false,
        },
    }
}
