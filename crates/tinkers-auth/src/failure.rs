//! The failure to obtain a token.

use std::fmt;

use tinkers_core::{Sent, TransportError, TransportErrorKind};

/// The reason why no token could be obtained. Clones are given to all requests that wait for the token.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) message: String,
}

/// Whether a repetition may succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// The server rejects the credential (401). Tokens that were obtained with it are no longer used.
    Rejected,
    /// A repetition cannot succeed.
    Final,
    /// The server or the network failed, so a repetition may succeed.
    Temporary(TransportErrorKind),
}

impl Failure {
    /// Creates the failure of a step on this machine.
    pub(crate) fn local(message: String) -> Self {
        Self {
            kind: FailureKind::Final,
            message,
        }
    }

    /// Returns whether the server rejects the credential itself.
    pub(crate) fn is_rejection(&self) -> bool {
        self.kind == FailureKind::Rejected
    }

    /// Returns the failure as the error of a request that waited for the token. The request was not sent.
    pub(crate) fn into_transport_error(self) -> TransportError {
        let kind = match self.kind {
            FailureKind::Rejected | FailureKind::Final => TransportErrorKind::Credential,
            FailureKind::Temporary(kind) => kind,
        };
        TransportError::new(kind, Sent::NotSent, self.message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
