//! Sessions: configuration, creation, heartbeat, end, telemetry.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::nulls::{null_is_default, without_nulls};

/// The version of the official SDK whose behaviour this client implements; servers resolve their flags from it.
pub const SDK_VERSION: &str = "0.38.0";

/// `POST /client/config` and `POST /client/dynamic_config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ConfigRequest {
    /// See [`SDK_VERSION`]; not every client tells it.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub sdk_version: String,
}

impl Default for ConfigRequest {
    fn default() -> Self {
        Self {
            sdk_version: SDK_VERSION.to_owned(),
        }
    }
}

/// Flags fetched once, at the start. Fields that are missing have the official SDK's defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, remote = "Self")]
#[non_exhaustive]
pub struct ClientConfig {
    /// The credential must be exchanged for a JWT.
    pub pjwt_auth_enabled: bool,
    /// Bytes of sampling prompts being submitted at once.
    pub sample_dispatch_bytes_semaphore_size: u64,
    /// Bytes of large results being fetched at once.
    pub inflight_response_bytes_semaphore_size: u64,
    /// Whether the chunks of one pass are submitted concurrently, the first one last.
    pub parallel_fwdbwd_chunks: bool,
    /// Whether passes are compressed with zstd.
    pub proto_compress_fwdbwd: bool,
    /// Data in one chunk.
    pub fwdbwd_max_chunk_len: usize,
    /// Estimated bytes in one chunk.
    pub fwdbwd_max_chunk_bytes_count: u64,
    /// Estimated bytes of passes being submitted at once.
    pub fwdbwd_dispatch_bytes_semaphore_size: u64,
    /// How long a 402 may hold the job, in seconds.
    pub billing_exception_max_pause_duration_sec: u64,
    /// The most sampling requests in flight.
    pub sample_max_concurrent_requests: u32,
    /// Whether samples are announced by the session-wide poller.
    pub sample_use_retrieve_futures: bool,
    /// The server's own name and version, where it says so: `name/version`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Whether the server says that it applies a repeated (model, seq_id) once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deduplicates_seq_ids: Option<bool>,
    /// How long a session lives without a heartbeat, in seconds, where the server says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_expiry_sec: Option<u64>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            pjwt_auth_enabled: false,
            sample_dispatch_bytes_semaphore_size: 10_485_760,
            inflight_response_bytes_semaphore_size: 52_428_800,
            parallel_fwdbwd_chunks: true,
            proto_compress_fwdbwd: false,
            fwdbwd_max_chunk_len: 1024,
            fwdbwd_max_chunk_bytes_count: 5_000_000,
            fwdbwd_dispatch_bytes_semaphore_size: 50_000_000,
            billing_exception_max_pause_duration_sec: 3600,
            sample_max_concurrent_requests: 2000,
            sample_use_retrieve_futures: false,
            server: None,
            deduplicates_seq_ids: None,
            session_expiry_sec: None,
        }
    }
}

/// Flags that are refreshed while the session lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, remote = "Self")]
#[non_exhaustive]
pub struct DynamicConfig {
    /// The refresh period in seconds.
    pub refresh_interval_sec: u64,
    /// Whether an abandoned sample is cancelled on the server.
    pub sample_cancel_enabled: bool,
    /// How many cancellations go at once.
    pub sample_cancel_max_batch_size: u32,
}

impl Default for DynamicConfig {
    fn default() -> Self {
        Self {
            refresh_interval_sec: 300,
            sample_cancel_enabled: false,
            sample_cancel_max_batch_size: 64,
        }
    }
}

/// Null flags are flags that were not sent.
macro_rules! tolerant_of_nulls {
    ($($type:ident),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                Self::serialize(self, serializer)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                without_nulls(deserializer, |fields| Self::deserialize(fields))
            }
        }
    )*};
}
tolerant_of_nulls!(ClientConfig, DynamicConfig);

/// `POST /create_session`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CreateSession {
    /// Labels.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<String>>"))]
    pub tags: Vec<String>,
    /// The caller's own notes.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(
        feature = "schema",
        schemars(with = "Option<BTreeMap<String, String>>")
    )]
    pub user_metadata: BTreeMap<String, String>,
    /// See [`SDK_VERSION`]; not every client tells it.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub sdk_version: String,
    /// The project that the session belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<String>,
    /// A name to find it by; need not be unique.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
}

impl Default for CreateSession {
    fn default() -> Self {
        Self {
            tags: Vec::new(),
            user_metadata: BTreeMap::new(),
            sdk_version: SDK_VERSION.to_owned(),
            project_id: None,
            display_name: None,
        }
    }
}

/// The answer to [`CreateSession`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SessionCreated {
    /// The session.
    pub session_id: String,
    /// For the log, at the level of its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info_message: Option<String>,
    /// For the log, at the level of its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning_message: Option<String>,
    /// For the log, at the level of its name; the session works all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
}

/// `POST /session_heartbeat`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Heartbeat {
    /// The session.
    pub session_id: String,
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum FinishReason {
    /// The work was done.
    #[default]
    Success,
    /// It failed.
    Errored,
    /// Somebody stopped it.
    Interrupted,
}

/// `POST /sessions/{id}/finish`. A missing detail is sent as null: the official SDK does, and servers may insist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FinishSession {
    /// Why.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<FinishReason>"))]
    pub reason: FinishReason,
    /// In words.
    pub detail: Option<String>,
}

/// `POST /telemetry`, as servers read it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Telemetry {
    /// The events.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<Value>>"))]
    pub events: Vec<Value>,
    /// The session, or `sessionless-<uuid>`.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub session_id: String,
}

/// The answer to [`Telemetry`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TelemetryAccepted {
    /// `accepted`.
    pub status: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_configuration_means_all_defaults() {
        assert_eq!(
            serde_json::from_str::<ClientConfig>("{}").unwrap(),
            ClientConfig::default()
        );
        assert_eq!(
            serde_json::from_str::<DynamicConfig>("{}").unwrap(),
            DynamicConfig::default()
        );
        let some: ClientConfig =
            serde_json::from_str(r#"{"fwdbwd_max_chunk_len": 7, "flag_of_tomorrow": {}}"#).unwrap();
        assert_eq!(some.fwdbwd_max_chunk_len, 7);
        let nulls = r#"{"fwdbwd_max_chunk_len": null, "server": null, "sample_use_retrieve_futures": true}"#;
        let some: ClientConfig = serde_json::from_str(nulls).unwrap();
        assert_eq!(some.fwdbwd_max_chunk_len, 1024);
        assert!(some.sample_use_retrieve_futures);
        let nulls = r#"{"refresh_interval_sec": null}"#;
        assert_eq!(
            serde_json::from_str::<DynamicConfig>(nulls).unwrap(),
            DynamicConfig::default()
        );
        let written = serde_json::to_string(&some).unwrap();
        assert_eq!(
            serde_json::from_str::<ClientConfig>(&written).unwrap(),
            some
        );
        let wrong = r#"{"fwdbwd_max_chunk_len": "many"}"#;
        assert!(serde_json::from_str::<ClientConfig>(wrong).is_err());
    }

    #[test]
    fn a_finish_keeps_its_null() {
        let finish = FinishSession {
            reason: FinishReason::Success,
            detail: None,
        };
        assert_eq!(
            serde_json::to_string(&finish).unwrap(),
            r#"{"reason":{"type":"success"},"detail":null}"#
        );
    }
}
