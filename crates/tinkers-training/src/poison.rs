//! Why nothing more may be sent for a model, and whether there is a way back.

use tinkers_core::{Error, ErrorKind, Sent};

use crate::parts::Part;

/// Why nothing more may be sent.
#[derive(Debug, Clone)]
pub(crate) struct Poison {
    pub(crate) cause: Error,
    pub(crate) recovery: Recovery,
}

/// Whether calls may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recovery {
    /// From this number: the server is known to have taken nothing from it on.
    From(u64),
    /// Some requests of the failed call have not ended.
    Undecided,
    /// Something was taken, or may have been.
    Never,
}

impl Poison {
    /// What a call fails with.
    pub(crate) fn error(&self) -> Error {
        let advice = match self.recovery {
            Recovery::From(_) => "nothing of it was applied; call recover() to go on",
            Recovery::Undecided => {
                "other requests of it are still under way; once they have ended, recover() says whether there is a way on"
            }
            Recovery::Never => "create a client from the last checkpoint",
        };
        let message = format!(
            "not sent, because an earlier call of this model failed ({}); {advice}",
            self.cause
        );
        Error::new(ErrorKind::Poisoned, Sent::NotSent, message).with_source(self.cause.clone())
    }
}

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
            ErrorKind::Conflict => part.saved_name().is_some() && says_that_it_exists(error),
            _ => false,
        },
    }
}

/// Whether a conflict (409) is about a name that is taken, and not about a number.
pub(crate) fn says_that_it_exists(error: &Error) -> bool {
    tinkers_wire::error_text(error.body())
        .is_some_and(|words| words.to_ascii_lowercase().contains("exist"))
}
