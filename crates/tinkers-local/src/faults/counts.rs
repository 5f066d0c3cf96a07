//! Which rule struck, and how often each did.

use std::fmt;
use std::sync::Arc;

use serde_json::{Value, json};

/// The rule that struck a request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Struck {
    /// Its number: 1 for the first rule that was added to the script.
    pub number: u64,
    /// Its name, where it has one.
    pub name: Option<Arc<str>>,
}

/// What a rule has done so far.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuleCount {
    /// Which rule.
    pub rule: Struck,
    /// Requests of its route that came while it was open.
    pub matched: u64,
    /// Requests that it struck.
    pub struck: u64,
}

impl RuleCount {
    /// As `GET /faults/counts` gives it.
    pub(crate) fn json(&self) -> Value {
        json!({
            "rule": self.rule.number,
            "name": self.rule.name.as_deref(),
            "matched": self.matched,
            "struck": self.struck,
        })
    }
}

impl fmt::Display for Struck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {}", self.number)?;
        match &self.name {
            Some(name) => write!(f, " ({name})"),
            None => Ok(()),
        }
    }
}
