//! Why nothing more may be sent for a model, and whether there is a way back.

use tinkers_core::{Error, ErrorKind, Sent};

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
        // A lost session is told as such by every call, so that a program need not look at the sources of errors.
        let kind = match self.cause.kind() {
            ErrorKind::SessionLost => ErrorKind::SessionLost,
            _ => ErrorKind::Poisoned,
        };
        Error::new(kind, Sent::NotSent, message).with_source(self.cause.clone())
    }
}
