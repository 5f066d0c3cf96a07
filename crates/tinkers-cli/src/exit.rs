//! The exit codes of the program, and the next step for each kind of error.

use std::process;

use tinkers::{Error, ErrorKind, FailureCategory};

use crate::signals::Interrupted;

/// The exit codes. Those of several failed parts of a command are ordered: the largest one wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ExitCode {
    /// Another failure, such as a file that cannot be written, or a request that the server rejects.
    Failure = 1,
    /// The command line or a setting is invalid. Nothing was sent.
    Usage = 2,
    /// An object does not exist.
    NotFound = 3,
    /// The credential is missing, rejected, without permission or without a paid bill.
    Authentication = 4,
    /// The server cannot be reached, fails, limits the rate, or lacks a route.
    Server = 5,
    /// A signal such as Ctrl-C interrupted the command.
    Interrupted = 130,
}

impl From<ExitCode> for process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

/// An error that a command found itself, with its exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failed {
    code: ExitCode,
    message: String,
}

impl Failed {
    pub(crate) fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// Returns the exit code of an error: that of the first cause which has one.
pub(crate) fn code(error: &anyhow::Error) -> ExitCode {
    let known = error.chain().find_map(|cause| {
        if cause.is::<Interrupted>() {
            return Some(ExitCode::Interrupted);
        }
        if let Some(failed) = cause.downcast_ref::<Failed>() {
            return Some(failed.code);
        }
        cause.downcast_ref::<Error>().map(code_of)
    });
    known.unwrap_or(ExitCode::Failure)
}

/// Returns the exit code of an error of the SDK.
pub(crate) fn code_of(error: &Error) -> ExitCode {
    match error.kind() {
        ErrorKind::InvalidInput | ErrorKind::Configuration => ExitCode::Usage,
        ErrorKind::NotFound => ExitCode::NotFound,
        ErrorKind::Authentication | ErrorKind::PermissionDenied | ErrorKind::Billing => {
            ExitCode::Authentication
        }
        ErrorKind::OperationFailed if error.category() == Some(FailureCategory::User) => {
            ExitCode::Failure
        }
        ErrorKind::RateLimited
        | ErrorKind::Server
        | ErrorKind::Connection
        | ErrorKind::Timeout
        | ErrorKind::Stalled
        | ErrorKind::OperationFailed
        | ErrorKind::ResultLost
        | ErrorKind::SessionLost
        | ErrorKind::OutcomeUnknown
        | ErrorKind::Protocol
        | ErrorKind::Unsupported => ExitCode::Server,
        _ => ExitCode::Failure,
    }
}

/// Returns what the user can do about an error, if it is not obvious from its message.
pub(crate) fn next_step(error: &anyhow::Error) -> Option<&'static str> {
    let error = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Error>())?;
    Some(match error.kind() {
        ErrorKind::Authentication => {
            "set TINKER_API_KEY, or store a key with `tinkers auth login`; `tinkers auth status` checks it"
        }
        ErrorKind::PermissionDenied => {
            "use the API key of the owner, or ask the owner for the permission; `tinkers auth whoami` shows whose key is used"
        }
        ErrorKind::Billing => {
            "settle the bill in the console of the service, then run the command again"
        }
        ErrorKind::NotFound => match error.operation() {
            Some("RestClient.get_session" | "RestClient.export_session_trace") => {
                "`tinkers session list` shows your sessions"
            }
            Some("RestClient.get_training_run" | "RestClient.list_checkpoints") => {
                "`tinkers run list` shows your training runs"
            }
            Some(operation) if operation.contains("tinker_path") => {
                "`tinkers checkpoint list` shows your checkpoints"
            }
            _ => return None,
        },
        ErrorKind::Connection => {
            "check the address, and that a server runs there; `tinkers serve` starts one, and --hosted selects the hosted service"
        }
        ErrorKind::Timeout | ErrorKind::Server => {
            "run the command again later; `tinkers doctor --base-url URL` examines a server"
        }
        ErrorKind::RateLimited => "run the command again later",
        ErrorKind::Protocol | ErrorKind::Unsupported => {
            "`tinkers doctor --base-url URL` shows what the server supports"
        }
        ErrorKind::Conflict if error.operation()?.contains("publish") => {
            "`tinkers checkpoint info PATH` shows the current state of the checkpoint"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context;
    use tinkers::Sent;

    use super::*;

    fn error(kind: ErrorKind) -> Error {
        Error::new(kind, Sent::Answered, "no")
    }

    #[test]
    fn exit_code_is_that_of_the_first_known_cause() {
        for (kind, expected) in [
            (ErrorKind::InvalidInput, 2),
            (ErrorKind::NotFound, 3),
            (ErrorKind::Authentication, 4),
            (ErrorKind::PermissionDenied, 4),
            (ErrorKind::RateLimited, 5),
            (ErrorKind::Connection, 5),
            (ErrorKind::Unsupported, 5),
            (ErrorKind::Rejected, 1),
            (ErrorKind::Conflict, 1),
        ] {
            let wrapped = Err::<(), _>(error(kind)).context("outer").unwrap_err();
            assert_eq!(code(&wrapped) as u8, expected, "{kind}");
        }
        assert_eq!(code(&Interrupted.into()) as u8, 130);
        assert_eq!(code(&anyhow::anyhow!("other")) as u8, 1);
        let failed = Failed::new(ExitCode::NotFound, "2 of 3 failed");
        assert_eq!(code(&failed.into()), ExitCode::NotFound);
        let user = error(ErrorKind::OperationFailed).with_category(FailureCategory::User);
        assert_eq!(code_of(&user), ExitCode::Failure);
        assert!(ExitCode::Server > ExitCode::NotFound);
    }

    #[test]
    fn next_step_of_a_missing_object_names_its_list() {
        for (operation, list) in [
            ("RestClient.get_session", "session list"),
            ("RestClient.get_training_run", "run list"),
            (
                "RestClient.delete_checkpoint_from_tinker_path",
                "checkpoint list",
            ),
        ] {
            let error = error(ErrorKind::NotFound).with_operation(operation);
            let next = next_step(&error.into()).unwrap();
            assert!(next.contains(list), "{next}");
        }
        assert_eq!(next_step(&anyhow::anyhow!("other")), None);
    }
}
