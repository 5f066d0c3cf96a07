//! Client configuration and sessions.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::lenient;
use crate::names::display_name;
use crate::nulls::null_is_default;

/// The version of the official Python SDK that this client follows in its behaviour. Servers choose the client configuration by this
/// version.
pub const SDK_VERSION: &str = "0.38.0";

/// The body of `POST /client/config`, which returns the [`ClientConfig`], and of `POST /client/dynamic_config`, which returns the
/// [`DynamicConfig`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ConfigRequest {
    /// The client's SDK version, see [`SDK_VERSION`]; empty if the client does not send one.
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

/// The configuration of a client, which the server sends once, when the client connects. A field that the server does not send has the default
/// of the official SDK.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, remote = "Self")]
#[non_exhaustive]
pub struct ClientConfig {
    /// Whether the API key must be exchanged for a JWT.
    pub pjwt_auth_enabled: bool,
    /// The source from which the exchanged credential must come: `credential_cmd` for the credential command. Any other value, and none, leave
    /// the choice to the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential_default_source: Option<String>,
    /// The maximum number of bytes of sampling prompts that a client submits concurrently.
    pub sample_dispatch_bytes_semaphore_size: u64,
    /// The maximum number of bytes of large results that a client fetches concurrently.
    pub inflight_response_bytes_semaphore_size: u64,
    /// Whether the client sends the chunks of a large batch concurrently, each chunk in one request. The first chunk is then sent only after the
    /// server has accepted all other chunks.
    pub parallel_fwdbwd_chunks: bool,
    /// Whether the bodies of forward and forward-backward requests are compressed with zstd.
    pub proto_compress_fwdbwd: bool,
    /// The maximum number of training examples per chunk of a batch. A larger batch is sent in several chunks.
    pub fwdbwd_max_chunk_len: usize,
    /// The maximum estimated number of bytes per chunk of a batch. A larger batch is sent in several chunks.
    pub fwdbwd_max_chunk_bytes_count: u64,
    /// The maximum estimated number of bytes of batches that a client submits concurrently.
    pub fwdbwd_dispatch_bytes_semaphore_size: u64,
    /// The maximum time in seconds for which a client retries a request that the server answers with 402 (payment required).
    pub billing_exception_max_pause_duration_sec: u64,
    /// The maximum number of sampling requests that a client has in flight at the same time.
    pub sample_max_concurrent_requests: u32,
    /// Whether a client polls for the results of all requests of a sampling session at once, with `retrieve_futures`.
    pub sample_use_retrieve_futures: bool,
    /// The name and version of the server software as `name/version`, if the server sends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Whether the server applies a repeated request with the same model and `seq_id` only once; `None` if the server does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deduplicates_seq_ids: Option<bool>,
    /// The time after which a session without heartbeats expires, in seconds, if the server sends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_expiry_sec: Option<u64>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            pjwt_auth_enabled: false,
            credential_default_source: None,
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

impl ClientConfig {
    /// Returns whether the server demands that the credential comes from a command.
    pub fn requires_credential_command(&self) -> bool {
        self.credential_default_source.as_deref() == Some("credential_cmd")
    }
}

/// The configuration of a client that the client fetches again and again during a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, remote = "Self")]
#[non_exhaustive]
pub struct DynamicConfig {
    /// The interval in seconds at which the client fetches this configuration again.
    pub refresh_interval_sec: u64,
    /// Whether the client cancels a sampling request on the server when the future of the request is dropped.
    pub sample_cancel_enabled: bool,
    /// The maximum number of sampling requests that the client cancels concurrently.
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

/// Implements serde traits that accept the different forms in which servers write a field, such as `"2000"` for a number. Treats a field that
/// has no valid value, such as null, like a missing field.
macro_rules! lenient_serde {
    ($($type:ident),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                Self::serialize(self, serializer)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                lenient::fields(deserializer, |fields| Self::deserialize(fields))
            }
        }
    )*};
}
lenient_serde!(ClientConfig, DynamicConfig);

/// `POST /create_session`: creates a session. Models and samplers belong to a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CreateSession {
    /// The tags of the session.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<String>>"))]
    pub tags: Vec<String>,
    /// Metadata of the session, chosen by the caller.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(
        feature = "schema",
        schemars(with = "Option<BTreeMap<String, String>>")
    )]
    pub user_metadata: BTreeMap<String, String>,
    /// The client's SDK version, see [`SDK_VERSION`]; empty if the client does not send one.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub sdk_version: String,
    /// The id of the project that the session belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<String>,
    /// The display name of the session; need not be unique.
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

/// The response to [`CreateSession`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SessionCreated {
    /// The id of the session.
    #[serde(deserialize_with = "lenient::id")]
    pub session_id: String,
    /// A message from the server that the client logs at info level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info_message: Option<String>,
    /// A message from the server that the client logs at warning level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning_message: Option<String>,
    /// A message from the server that the client logs at error level. The session is usable nevertheless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
}

/// `POST /session_heartbeat`: keeps a session alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Heartbeat {
    /// The id of the session.
    pub session_id: String,
}

/// The reason why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "lowercase")]
#[non_exhaustive]
pub enum FinishReason {
    /// The session ended because the client completed its work.
    #[default]
    Success,
    /// The session ended because the client failed.
    Errored,
    /// The session ended because the client was interrupted, for example by a signal.
    Interrupted,
}

impl FinishReason {
    /// Returns the name used in JSON: `success`, `errored` or `interrupted`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Errored => "errored",
            Self::Interrupted => "interrupted",
        }
    }
}

display_name!(FinishReason);

/// `POST /sessions/{id}/finish`: ends a session. A missing detail is sent as null, as the official SDK does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FinishSession {
    /// The reason why the session ended.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<FinishReason>"))]
    pub reason: FinishReason,
    /// A text that describes the reason why the session ended.
    pub detail: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_null_config_fields_have_their_defaults() {
        assert_eq!(
            serde_json::from_str::<ClientConfig>("{}").unwrap(),
            ClientConfig::default()
        );
        assert_eq!(
            serde_json::from_str::<DynamicConfig>("{}").unwrap(),
            DynamicConfig::default()
        );
        let some: ClientConfig =
            serde_json::from_str(r#"{"fwdbwd_max_chunk_len": 7, "unknown_flag": {}}"#).unwrap();
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
    }

    #[test]
    fn config_fields_in_other_forms_are_converted_or_skipped() {
        let config: ClientConfig = serde_json::from_str(
            r#"{"billing_exception_max_pause_duration_sec": 60.0, "sample_dispatch_bytes_semaphore_size": 1e7,
                "sample_max_concurrent_requests": "20", "parallel_fwdbwd_chunks": "false", "proto_compress_fwdbwd": 1,
                "fwdbwd_max_chunk_len": -1, "fwdbwd_max_chunk_bytes_count": "many", "session_expiry_sec": "45"}"#,
        )
        .unwrap();
        let expected = ClientConfig {
            billing_exception_max_pause_duration_sec: 60,
            sample_dispatch_bytes_semaphore_size: 10_000_000,
            sample_max_concurrent_requests: 20,
            parallel_fwdbwd_chunks: false,
            proto_compress_fwdbwd: true,
            session_expiry_sec: Some(45),
            ..ClientConfig::default()
        };
        assert_eq!(config, expected);
        assert!(serde_json::from_str::<ClientConfig>("[]").is_err());
        let created = r#"{"session_id": 7}"#;
        let created: SessionCreated = serde_json::from_str(created).unwrap();
        assert_eq!(created.session_id, "7");
    }

    #[test]
    fn missing_detail_of_a_session_finish_is_sent_as_null() {
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
