//! The verdict of a check.

use std::error::Error as _;
use std::fmt;

use serde::Serialize;
use tinkers::{Error, ErrorKind, Sent};

/// The verdict of a check: passed, not offered, or failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "verdict", content = "why")]
pub enum Verdict {
    /// The server behaves as the check expects. The text is a note for the report and may be empty.
    Passed(String),
    /// The server does not offer the feature that the check needs, and its response says so. The
    /// text is the reason.
    NotOffered(String),
    /// The server does not behave as the check expects. The text says how the behaviour differs.
    Failed(String),
}

impl Verdict {
    /// Returns the name of the verdict for tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Passed(_) => "passed",
            Self::NotOffered(_) => "not offered",
            Self::Failed(_) => "FAILED",
        }
    }

    /// Appends a note to the text of the verdict.
    pub(crate) fn add_note(&mut self, note: &str) {
        let (Self::Passed(why) | Self::NotOffered(why) | Self::Failed(why)) = self;
        if !why.is_empty() {
            why.push_str("; ");
        }
        why.push_str(note);
    }

    /// Returns the text of the verdict: the note of a passed check, or the reason why the check did
    /// not pass.
    pub fn why(&self) -> &str {
        let (Self::Passed(why) | Self::NotOffered(why) | Self::Failed(why)) = self;
        why
    }
}

/// The result of a check function. A check that passes returns a note, which may be empty.
pub type CheckResult = Result<String, CheckError>;

/// The reason why a check did not pass.
#[derive(Debug, Clone)]
pub enum CheckError {
    /// The server does not offer the feature that the check needs. The text is the reason.
    NotOffered(String),
    /// The server does not behave as the check expects. The text says how the behaviour differs.
    Failed(String),
}

impl CheckError {
    /// Creates a [`Self::NotOffered`] with the reason `why`.
    pub fn not_offered(why: impl fmt::Display) -> Self {
        Self::NotOffered(why.to_string())
    }

    /// Creates a [`Self::Failed`] with the reason `why`.
    pub fn failed(why: impl fmt::Display) -> Self {
        Self::Failed(why.to_string())
    }

    /// Converts the error of a call to an HTTP route that a server need not have. If the response
    /// says that the route does not exist, the result is [`Self::NotOffered`]; otherwise it is
    /// [`Self::Failed`].
    pub fn from_optional_route(error: &Error) -> Self {
        let absent = matches!(error.status(), Some(404 | 405 | 501));
        if absent || error.kind() == ErrorKind::Unsupported {
            return Self::NotOffered(chain(error));
        }
        Self::Failed(chain(error))
    }

    /// Converts the error of a call that used a setting which a server need not support. If the
    /// server rejected the call, the result is [`Self::NotOffered`]; otherwise it is
    /// [`Self::Failed`].
    pub fn from_optional_setting(error: &Error) -> Self {
        let refused = matches!(error.status(), Some(400 | 404 | 405 | 409 | 422 | 501));
        let failed = matches!(
            error.kind(),
            ErrorKind::OperationFailed | ErrorKind::Conflict
        );
        if error.sent() == Sent::Answered && (refused || failed) {
            return Self::NotOffered(chain(error));
        }
        Self::Failed(chain(error))
    }
}

impl From<Error> for CheckError {
    fn from(error: Error) -> Self {
        Self::Failed(chain(&error))
    }
}

impl From<CheckResult> for Verdict {
    fn from(findings: CheckResult) -> Self {
        match findings {
            Ok(note) => Self::Passed(note),
            Err(CheckError::NotOffered(why)) => Self::NotOffered(why),
            Err(CheckError::Failed(why)) => Self::Failed(why),
        }
    }
}

/// Returns [`CheckError::Failed`] with the reason `why` if `condition` is false.
pub(crate) fn ensure(condition: bool, why: impl FnOnce() -> String) -> Result<(), CheckError> {
    if condition {
        Ok(())
    } else {
        Err(CheckError::Failed(why()))
    }
}

/// Formats an error and all of its sources on one line.
pub(crate) fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
