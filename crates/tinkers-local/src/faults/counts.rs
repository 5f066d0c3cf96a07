//! Counters of fault rules.

use std::fmt;
use std::sync::Arc;

use serde_json::{Value, json};

/// The number and the name of a rule in a fault script.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuleId {
    /// The number of the rule in the script, counted from 1.
    pub number: u64,
    /// The name of the rule, if it has one.
    pub name: Option<Arc<str>>,
}

/// The counters of matched and of faulted requests of a fault rule.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuleCount {
    /// The rule.
    pub rule: RuleId,
    /// The number of requests that matched the rule while the rule was active.
    pub matched: u64,
    /// The number of requests into which the rule injected its fault.
    pub struck: u64,
}

impl RuleCount {
    /// Returns the JSON object for this rule in the response to `GET /faults/counts`.
    pub(crate) fn json(&self) -> Value {
        json!({
            "rule": self.rule.number,
            "name": self.rule.name.as_deref(),
            "matched": self.matched,
            "struck": self.struck,
        })
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {}", self.number)?;
        match &self.name {
            Some(name) => write!(f, " ({name})"),
            None => Ok(()),
        }
    }
}
