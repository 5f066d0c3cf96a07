//! How a check ends.

use std::error::Error as _;
use std::fmt;

use serde::Serialize;
use tinkers::{Error, ErrorKind, Sent};

/// What came of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "verdict", content = "why")]
pub enum Verdict {
    /// It does what it should; what else there is to say of it, or nothing.
    Passed(String),
    /// The server does not have it, and says so clearly.
    NotOffered(String),
    /// It does something else than it should.
    Failed(String),
}

impl Verdict {
    /// The word for it in a table.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Passed(_) => "passed",
            Self::NotOffered(_) => "not offered",
            Self::Failed(_) => "FAILED",
        }
    }

    /// What there is to say.
    pub fn why(&self) -> &str {
        let (Self::Passed(why) | Self::NotOffered(why) | Self::Failed(why)) = self;
        why
    }
}

/// What a check found out; an empty text when there is nothing to add.
pub type Findings = Result<String, Stop>;

/// Why a check did not pass.
#[derive(Debug, Clone)]
pub enum Stop {
    /// The server does not have it.
    NotOffered(String),
    /// It is wrong.
    Failed(String),
}

impl Stop {
    /// The server does not have it.
    pub fn not_offered(why: impl fmt::Display) -> Self {
        Self::NotOffered(why.to_string())
    }

    /// It is wrong.
    pub fn failed(why: impl fmt::Display) -> Self {
        Self::Failed(why.to_string())
    }

    /// An error of a call that a server need not have: an answer that says that there is no such route is one that does not offer it.
    pub fn of_optional(error: &Error) -> Self {
        let absent = matches!(error.status(), Some(404 | 405 | 501));
        if absent || error.kind() == ErrorKind::Unsupported {
            return Self::NotOffered(chain(error));
        }
        Self::Failed(chain(error))
    }

    /// An error of an option that a server need not take: refused with a reason it is not offered.
    pub fn of_choice(error: &Error) -> Self {
        let refused = matches!(error.status(), Some(400 | 404 | 405 | 409 | 422 | 501));
        if error.sent() == Sent::Answered && (refused || error.kind() == ErrorKind::OperationFailed)
        {
            return Self::NotOffered(chain(error));
        }
        Self::Failed(chain(error))
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(chain(&error))
    }
}

impl From<Findings> for Verdict {
    fn from(findings: Findings) -> Self {
        match findings {
            Ok(note) => Self::Passed(note),
            Err(Stop::NotOffered(why)) => Self::NotOffered(why),
            Err(Stop::Failed(why)) => Self::Failed(why),
        }
    }
}

/// Fails unless `holds`.
pub(crate) fn ensure(holds: bool, why: impl FnOnce() -> String) -> Result<(), Stop> {
    if holds {
        Ok(())
    } else {
        Err(Stop::Failed(why()))
    }
}

/// An error with its causes, on one line.
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
