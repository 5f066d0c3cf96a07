//! The failure that stops a model's submissions, and whether calls may go on after it.

use tinkers_core::{Error, ErrorKind, Sent};

/// The failure that stops all later submissions of a model.
#[derive(Debug, Clone)]
pub(crate) struct Poison {
    pub(crate) cause: Error,
    pub(crate) recovery: Recovery,
}

/// Whether calls may go on after a poison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recovery {
    /// They may, from this number on: the server is known to have applied nothing.
    From(u64),
    /// Not known yet: some requests of the failed call have not ended.
    Undecided,
    /// They may not: something was or may have been applied.
    Never,
}

impl Poison {
    /// Returns the error of a later call.
    pub(crate) fn error(&self) -> Error {
        let advice = match self.recovery {
            Recovery::From(_) => "nothing of it was applied; call recover() to go on",
            Recovery::Undecided => {
                "other requests of it have not ended; once they have, recover() tells whether calls may go on"
            }
            Recovery::Never => "create a client from the last checkpoint",
        };
        let message = format!("not sent, because an earlier call of this model failed; {advice}");
        // Every call after a lost session reports it by its kind, so that programs need not inspect the sources of errors.
        let kind = match self.cause.kind() {
            ErrorKind::SessionLost => ErrorKind::SessionLost,
            _ => ErrorKind::Poisoned,
        };
        Error::new(kind, Sent::NotSent, message).with_source(self.cause.clone())
    }
}
