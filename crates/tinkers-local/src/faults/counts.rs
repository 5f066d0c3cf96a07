//! Counters of fault rules.

use std::fmt;
use std::sync::Arc;

use serde_json::{Value, json};

/// The number and the name that identify a rule of a fault script.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuleId {
    /// The number of the rule in the script, counted from 1.
    pub number: u64,
    /// The name of the rule, if it has one.
    pub name: Option<Arc<str>>,
}

/// The counters of a fault rule: how many requests it matched, and into how many of them it injected its fault.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuleCount {
    /// The number and the name of the rule.
    pub rule: RuleId,
    /// The number of requests that matched the rule while the rule was active.
    pub matched: u64,
    /// The number of requests into which the rule injected its fault.
    pub struck: u64,
}

impl RuleCount {
    /// Returns the number, the name and the counters of this rule as a JSON object, for the response to `GET /faults/counts`.
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
