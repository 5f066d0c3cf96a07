//! The failure after which a model accepts no more calls, and whether `TrainingClient::recover` may end this state.

use tinkers_core::{Error, ErrorKind, Sent};

/// The failure of a model: the error of a failed call, because of which all later calls of the model fail.
#[derive(Debug, Clone)]
pub(crate) struct ModelFailure {
    pub(crate) cause: Error,
    pub(crate) recovery: Recovery,
}

/// Whether a failed model accepts calls again when [`TrainingClient::recover`](crate::TrainingClient::recover) is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recovery {
    /// The model may accept calls again, starting with this sequence number: the server applied no part of the failed call.
    From(u64),
    /// It is not known yet whether the model may accept calls again, since some requests of the failed call are still in flight.
    Undecided,
    /// The model may not accept calls again: the server applied or may have applied a part of the failed call.
    Never,
}

impl ModelFailure {
    /// Returns the error for a call that is made after the model has failed.
    pub(crate) fn error(&self) -> Error {
        let advice = match self.recovery {
            Recovery::From(_) => "no part of that call was applied; call recover() to continue",
            Recovery::Undecided => {
                "some requests of that call are still in flight; call recover() later"
            }
            Recovery::Never => "create a client from the last checkpoint",
        };
        let message = format!("not sent, because an earlier call of this model failed; {advice}");
        // After the loss of a session, each later call has the kind `SessionLost`, so that programs need not inspect the error source.
        let kind = match self.cause.kind() {
            ErrorKind::SessionLost => ErrorKind::SessionLost,
            _ => ErrorKind::Poisoned,
        };
        Error::new(kind, Sent::NotSent, message).with_source(self.cause.clone())
    }
}
