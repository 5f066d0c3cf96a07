//! Descriptions of API keys, the audit log, usage and storage.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::lenient;
use crate::names::display_name;
use crate::nulls::null_is_default;

/// The description of an API key by the server, the response to `GET /auth/apikey/me`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ApiKeyInfo {
    /// The id of the key.
    pub key_id: u64,
    /// The name of the key.
    #[serde(default, deserialize_with = "null_is_default")]
    pub name: String,
    /// The note of the user who created the key.
    #[serde(default)]
    pub note: Option<String>,
    /// The organization and the user of the key: `org_details` with `name`, and `user_details` with `email`.
    #[serde(default)]
    pub details: Option<Value>,
}

/// The kind of events in a request for the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum AuditEventType {
    /// All events.
    #[default]
    All,
    /// Events of checkpoints.
    Checkpoints,
    /// Events of projects.
    Projects,
    /// Events of teams.
    Teams,
    /// Events of organizations.
    Organizations,
}

impl AuditEventType {
    /// All kinds of events.
    pub const ALL: [Self; 5] = [
        Self::All,
        Self::Checkpoints,
        Self::Projects,
        Self::Teams,
        Self::Organizations,
    ];

    /// Returns the name in queries, such as `checkpoints`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Checkpoints => "checkpoints",
            Self::Projects => "projects",
            Self::Teams => "teams",
            Self::Organizations => "organizations",
        }
    }
}

display_name!(AuditEventType);

/// The audit log of a day, the response to `GET /audit`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct AuditLog {
    /// The entries.
    #[serde(default, deserialize_with = "null_is_default")]
    pub entries: Vec<AuditEntry>,
}

/// An entry of the audit log.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct AuditEntry {
    /// The time of the event, an RFC 3339 string.
    #[serde(default, deserialize_with = "null_is_default")]
    pub timestamp: String,
    /// The name of the event.
    #[serde(default, deserialize_with = "null_is_default")]
    pub event: String,
    /// The details of the event, which depend on its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_details: Option<Value>,
    /// The model of the event. Newer servers put it into the details.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_id: Option<String>,
    /// The path of the checkpoint of the event. Newer servers put it into the details.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tinker_path: Option<String>,
    /// The purpose of an access. Newer servers put it into the details.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
}

/// The usage per hour, the response to `GET /billing/usage/events`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct BillingUsage {
    /// The events.
    #[serde(default, deserialize_with = "null_is_default")]
    pub data: Vec<UsageEvent>,
    /// The sessions of the events, by their ids.
    #[serde(default, deserialize_with = "null_is_default")]
    pub sessions: BTreeMap<String, UsageSession>,
    /// The time up to which the costs come from invoices. Later costs are estimates from the current prices. An RFC 3339 string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_data_through: Option<String>,
}

/// The session of usage events.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct UsageSession {
    /// Metadata of the session, chosen by the caller.
    #[serde(
        default,
        deserialize_with = "lenient::optional_metadata",
        skip_serializing_if = "Option::is_none"
    )]
    pub user_metadata: Option<BTreeMap<String, String>>,
}

/// The usage of one kind in one hour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct UsageEvent {
    /// The start of the hour, an RFC 3339 string.
    pub bucket_start: String,
    /// The end of the hour, an RFC 3339 string.
    pub bucket_end: String,
    /// The name of the base model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,
    /// The id of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// The name of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_name: Option<String>,
    /// The id of the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The id of the project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<String>,
    /// The cost in US dollars, if it is known.
    #[serde(
        default,
        deserialize_with = "lenient::optional_number",
        skip_serializing_if = "Option::is_none"
    )]
    pub estimated_cost_usd: Option<f64>,
    /// The price in US dollars per million tokens.
    #[serde(
        default,
        deserialize_with = "lenient::optional_number",
        skip_serializing_if = "Option::is_none"
    )]
    pub effective_rate_usd_per_million_tokens: Option<f64>,
    /// The price in US dollars per gigabyte and month of 720 hours.
    #[serde(
        default,
        deserialize_with = "lenient::optional_number",
        skip_serializing_if = "Option::is_none"
    )]
    pub effective_rate_usd_per_gigabyte_month: Option<f64>,
    /// What was used, and how much. `None` if the server sends it in a form that this version does not know.
    #[serde(default, deserialize_with = "lenient::optional")]
    pub event_info: Option<UsageInfo>,
}

impl UsageEvent {
    /// Creates an event of the hour from `bucket_start` to `bucket_end`, without costs.
    pub fn new(
        bucket_start: impl Into<String>,
        bucket_end: impl Into<String>,
        event_info: UsageInfo,
    ) -> Self {
        Self {
            bucket_start: bucket_start.into(),
            bucket_end: bucket_end.into(),
            base_model: None,
            user_id: None,
            user_name: None,
            session_id: None,
            project_id: None,
            estimated_cost_usd: None,
            effective_rate_usd_per_million_tokens: None,
            effective_rate_usd_per_gigabyte_month: None,
            event_info: Some(event_info),
        }
    }
}

/// What was used in an hour, and how much.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum UsageInfo {
    /// Training.
    Training {
        /// The number of tokens.
        #[serde(default, deserialize_with = "lenient::count")]
        token_count: u64,
    },
    /// Prompts of samples.
    SamplingPrefill {
        /// Whether the tokens were in the cache.
        #[serde(default, deserialize_with = "null_is_default")]
        cached: bool,
        /// The number of tokens.
        #[serde(default, deserialize_with = "lenient::count")]
        token_count: u64,
    },
    /// Sampled tokens.
    SamplingSample {
        /// The number of tokens.
        #[serde(default, deserialize_with = "lenient::count")]
        token_count: u64,
    },
    /// Saved checkpoints.
    Checkpoint {
        /// The number of checkpoints.
        #[serde(default, deserialize_with = "lenient::count")]
        count: u64,
    },
    /// Storage of checkpoints.
    Storage {
        /// Whether the storage is free of charge.
        #[serde(default, deserialize_with = "null_is_default")]
        free: bool,
        /// The gigabytes times hours, if the server sends them.
        #[serde(default, deserialize_with = "lenient::optional_number")]
        gigabyte_hours: Option<f64>,
    },
    /// A kind that this version does not know.
    #[serde(other)]
    Unknown,
}

/// The current storage of checkpoints, the response to `GET /billing/usage/checkpoints/current`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct CheckpointStorageUsage {
    /// The price in US dollars per gigabyte and month of 720 hours.
    #[serde(
        default,
        deserialize_with = "lenient::optional_number",
        skip_serializing_if = "Option::is_none"
    )]
    pub effective_rate_usd_per_gigabyte_month: Option<f64>,
    /// The storage per project and user.
    #[serde(default, deserialize_with = "null_is_default")]
    pub data: Vec<CheckpointStorage>,
}

/// The storage of the checkpoints of one user in one project.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct CheckpointStorage {
    /// The id of the project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<String>,
    /// The URN of the user in the organization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org_user_urn: Option<String>,
    /// The email address of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_email: Option<String>,
    /// The name of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_name: Option<String>,
    /// The number of checkpoints.
    #[serde(default, deserialize_with = "lenient::count")]
    pub checkpoint_count: u64,
    /// The size in bytes.
    #[serde(default, deserialize_with = "lenient::count")]
    pub size_bytes: u64,
    /// The size in gigabytes, if the server sends it.
    #[serde(default, deserialize_with = "lenient::optional_number")]
    pub size_gigabytes: Option<f64>,
    /// The cost in US dollars per month, if it is known.
    #[serde(
        default,
        deserialize_with = "lenient::optional_number",
        skip_serializing_if = "Option::is_none"
    )]
    pub estimated_monthly_cost_usd: Option<f64>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn usage_with_unknown_kinds_and_numbers_as_strings_is_decoded() {
        let event = |info| json!({"bucket_start": "a", "bucket_end": "b", "estimated_cost_usd": "1.5", "event_info": info});
        let usage = json!({
            "data": [
                event(json!({"type": "training", "token_count": "12", "x": 1})),
                event(json!({"type": "sampling_prefill", "cached": null, "token_count": 3.0})),
                event(json!({"type": "storage", "gigabyte_hours": "0.25"})),
                event(json!({"type": "teleport", "distance": 1})),
                event(json!(7)),
            ],
            "sessions": {"s": {"user_metadata": {"run": 3}}},
        });
        let usage: BillingUsage = serde_json::from_value(usage).unwrap();
        let info: Vec<_> = usage
            .data
            .iter()
            .map(|event| event.event_info.clone())
            .collect();
        assert_eq!(
            info,
            [
                Some(UsageInfo::Training { token_count: 12 }),
                Some(UsageInfo::SamplingPrefill {
                    cached: false,
                    token_count: 3
                }),
                Some(UsageInfo::Storage {
                    free: false,
                    gigabyte_hours: Some(0.25)
                }),
                Some(UsageInfo::Unknown),
                None
            ]
        );
        assert_eq!(usage.data[0].estimated_cost_usd, Some(1.5));
        let metadata = usage.sessions["s"].user_metadata.as_ref().unwrap();
        assert_eq!(metadata["run"], "3");
    }

    #[test]
    fn audit_log_and_storage_without_optional_fields_are_decoded() {
        let log: AuditLog =
            serde_json::from_value(json!({"entries": [{"event": "deleted"}]})).unwrap();
        assert_eq!(log.entries[0].event, "deleted");
        let storage = json!({"data": [{"checkpoint_count": 2, "size_bytes": "7"}]});
        let storage: CheckpointStorageUsage = serde_json::from_value(storage).unwrap();
        assert_eq!(
            (storage.data[0].checkpoint_count, storage.data[0].size_bytes),
            (2, 7)
        );
    }
}
