//! The usage: how many tokens and checkpoints each session used in each hour.

use serde::{Deserialize, Serialize};

use super::table::Table;
use crate::access::Owner;

/// The seconds of an hour.
pub(crate) const HOUR: u64 = 3600;

/// What was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Used {
    /// Tokens of the data of forward and backward passes.
    TrainingTokens,
    /// Tokens of prompts of samples.
    PromptTokens,
    /// Sampled tokens.
    SampledTokens,
    /// Saved checkpoints.
    Checkpoints,
}

impl Used {
    /// Returns the part of the key of a record that stands for what was used.
    const fn key(self) -> &'static str {
        match self {
            Self::TrainingTokens => "training",
            Self::PromptTokens => "prompt",
            Self::SampledTokens => "sampled",
            Self::Checkpoints => "checkpoints",
        }
    }
}

/// Who used something: an owner, in a session or, for samples that belong to no session, without one.
#[derive(Debug, Clone)]
pub(crate) struct User {
    pub(crate) owner: Owner,
    pub(crate) session: Option<String>,
    pub(crate) base_model: String,
}

/// The usage of one kind by one user in one hour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct UsageRecord {
    /// The start of the hour, in seconds since the Unix epoch.
    pub(crate) hour: u64,
    pub(crate) owner: Owner,
    pub(crate) session: Option<String>,
    pub(crate) base_model: String,
    pub(crate) used: Used,
    pub(crate) count: u64,
}

/// Returns the beginning of the keys of an hour. It has a fixed width, so that the keys are ordered by the hour.
pub(crate) fn hour_key(hour: u64) -> String {
    format!("{hour:012}")
}

/// Adds to the usage of the hour of `seconds` since the Unix epoch.
pub(super) fn add(
    table: &mut Table<UsageRecord>,
    seconds: f64,
    user: &User,
    used: Used,
    count: u64,
) {
    if count == 0 {
        return;
    }
    let hour = seconds.max(0.0) as u64 / HOUR * HOUR;
    let session = user.session.as_deref().unwrap_or_default();
    let (owner, base) = (user.owner.name(), &user.base_model);
    let key = format!("{} {session} {owner} {base} {}", hour_key(hour), used.key());
    match table.change_later(&key) {
        Some(record) => record.count += count,
        None => table.insert_later(
            key,
            UsageRecord {
                hour,
                owner: user.owner.clone(),
                session: user.session.clone(),
                base_model: user.base_model.clone(),
                used,
                count,
            },
        ),
    }
}
