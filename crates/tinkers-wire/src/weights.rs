//! Requests and results of saving and loading weights.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::names::display_name;
use crate::nulls::null_is_default;
use crate::poll::read_known;
use crate::response::read_json;
use crate::{DecodeError, InvalidInput, OperationResult, OptimizerConfig, TinkerPath, lenient};

/// `POST /save_weights`: saves weights and optimizer state, to continue training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SaveWeights {
    /// The id of the model.
    pub model_id: String,
    /// The sequence number of this request within the model; the same on every retry.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<u64>"))]
    pub seq_id: u64,
    /// The name of the checkpoint; chosen by the server if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The time in seconds after which the server deletes the checkpoint. `None` means that the checkpoint is not deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
    /// Whether to replace an existing checkpoint of the same name. If not, the save fails if such a checkpoint exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overwrite: Option<bool>,
    /// Metadata of the checkpoint, chosen by the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_metadata: Option<BTreeMap<String, String>>,
}

/// Whether a sampler switches to the newer weights when its model is saved again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum SamplerSaveKind {
    /// The sampler always uses the weights of the save that created it.
    Snapshot,
    /// The sampler switches to the weights of later saves of the model.
    Inflight,
}

impl SamplerSaveKind {
    /// Returns the name used in JSON, `snapshot` or `inflight`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Inflight => "inflight",
        }
    }
}

display_name!(SamplerSaveKind);

/// `POST /save_weights_for_sampler`: saves weights to sample from. Named weights become the checkpoint `path`. Unnamed weights have no path;
/// the server creates the sampler `sampling_session_seq_id` for them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SaveWeightsForSampler {
    /// The id of the model.
    pub model_id: String,
    /// The sequence number of this request within the model; the same on every retry.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<u64>"))]
    pub seq_id: u64,
    /// The name of the checkpoint; `None` for unnamed weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The sequence number, within the session, of the sampler to create from unnamed weights; `None` for named weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling_session_seq_id: Option<u64>,
    /// Whether the sampler of unnamed weights switches to the weights of later saves. If `None`, it keeps the weights of this save.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<SamplerSaveKind>,
    /// The time in seconds after which the server deletes the checkpoint. Only for named weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
    /// Metadata of the checkpoint, chosen by the caller; only for named weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_metadata: Option<BTreeMap<String, String>>,
}

/// The result of saving a training checkpoint ([`SaveWeights`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct SavedWeights {
    /// The path of the checkpoint.
    pub path: TinkerPath,
}

impl SavedWeights {
    /// Creates the result of saving a checkpoint at `path`.
    pub fn new(path: TinkerPath) -> Self {
        Self { path }
    }
}

/// The result of saving weights to sample from ([`SaveWeightsForSampler`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct SavedSamplerWeights {
    /// The path of the checkpoint, for named weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<TinkerPath>,
    /// The id of the new sampler, for unnamed weights.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient::optional_id"
    )]
    pub sampling_session_id: Option<String>,
}

impl SavedSamplerWeights {
    /// Creates the result of saving named weights.
    pub fn named(path: TinkerPath) -> Self {
        Self {
            path: Some(path),
            sampling_session_id: None,
        }
    }

    /// Creates the result of saving unnamed weights.
    pub fn unnamed(sampling_session_id: impl Into<String>) -> Self {
        Self {
            path: None,
            sampling_session_id: Some(sampling_session_id.into()),
        }
    }
}

/// `POST /load_weights`: loads a checkpoint into a new model, which `session_id` and `model_seq_id` identify, or into the existing model
/// `model_id`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LoadWeights {
    /// The path of the checkpoint.
    pub path: TinkerPath,
    /// Whether to restore the optimizer state of the checkpoint, and not only the weights.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<bool>"))]
    pub optimizer: bool,
    /// The id of the session in which a new model is created; `None` for an existing model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The sequence number of the new model in the session; `None` for an existing model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_seq_id: Option<u64>,
    /// The id of the existing model to load the checkpoint into; `None` for a new model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_id: Option<String>,
    /// The sequence number of this request within the existing model; `None` for a new model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq_id: Option<u64>,
    /// The base model of the new model, if it differs from the base model of the checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,
    /// Metadata of the new model, chosen by the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_metadata: Option<BTreeMap<String, String>>,
    /// The configuration of the optimizer of the new model, if the optimizer state is not restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimizer_config: Option<OptimizerConfig>,
    /// An access token of the account that owns the checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_access_token: Option<String>,
}

/// The result of loading a checkpoint ([`LoadWeights`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct LoadedWeights {
    /// The path of the checkpoint, if the server sends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<TinkerPath>,
    /// The id of the model that the checkpoint was loaded into, if the server sends it.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient::optional_id"
    )]
    pub model_id: Option<String>,
}

impl LoadedWeights {
    /// Creates the result of loading the checkpoint at `path`.
    pub fn new(path: TinkerPath) -> Self {
        Self {
            path: Some(path),
            model_id: None,
        }
    }
}

impl OperationResult for SavedWeights {
    const PROTOBUF: bool = false;

    fn from_json(body: &[u8]) -> Result<Self, DecodeError> {
        read_json(body).map_err(|error| error.quoting(body))
    }
}

impl OperationResult for SavedSamplerWeights {
    const PROTOBUF: bool = false;

    fn from_json(body: &[u8]) -> Result<Self, DecodeError> {
        let saved: Self = read_json(body).map_err(|error| error.quoting(body))?;
        if saved.path.is_none() && saved.sampling_session_id.is_none() {
            let missing = DecodeError::new(
                "cannot decode the save result: expected `path` or `sampling_session_id`",
            );
            return Err(missing.quoting(body));
        }
        Ok(saved)
    }
}

impl OperationResult for LoadedWeights {
    const PROTOBUF: bool = false;

    fn from_json(body: &[u8]) -> Result<Self, DecodeError> {
        read_known(body, "load_weights", &["path", "model_id"])
    }
}

/// The maximum length of a checkpoint name, in bytes.
pub const MAX_CHECKPOINT_NAME: usize = 255;

/// Checks the name of a checkpoint, the last segment of its path: 1 to [`MAX_CHECKPOINT_NAME`] letters, digits, `-`, `_` or `.`, not starting
/// with `.`.
///
/// # Errors
/// The error names the field `name`.
pub fn check_checkpoint_name(name: &str) -> Result<(), InvalidInput> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_valid_length = (1..=MAX_CHECKPOINT_NAME).contains(&name.len());
    if is_valid_length && name.chars().all(is_allowed) && !name.starts_with('.') {
        return Ok(());
    }
    let expected = format!(
        "a name of 1 to {MAX_CHECKPOINT_NAME} letters, digits, '-', '_' or '.', not starting with '.', got {name:?}"
    );
    Err(InvalidInput::new("name", expected))
}

/// Checks the name of a checkpoint to save, and the time after which the server deletes it (`ttl_seconds`).
fn validate_save(name: Option<&str>, ttl_seconds: Option<u64>) -> Result<(), InvalidInput> {
    if let Some(name) = name {
        check_checkpoint_name(name)?;
    }
    check_ttl(ttl_seconds)
}

/// Checks the time after which the server deletes a checkpoint: between one hour and ten years.
pub(crate) fn check_ttl(ttl_seconds: Option<u64>) -> Result<(), InvalidInput> {
    match ttl_seconds {
        Some(ttl) if !(3600..=315_360_000).contains(&ttl) => Err(InvalidInput::new(
            "ttl_seconds",
            format_args!("3600 to 315360000 (ten years), got {ttl}"),
        )),
        _ => Ok(()),
    }
}

impl SaveWeights {
    /// Checks the name of the checkpoint (`path`), and that `ttl_seconds` is between one hour and ten years.
    ///
    /// # Errors
    /// The error names the field `name` or `ttl_seconds`.
    pub fn validate(&self) -> Result<(), InvalidInput> {
        validate_save(self.path.as_deref(), self.ttl_seconds)
    }
}

impl SaveWeightsForSampler {
    /// Checks the name of the checkpoint (`path`), that `ttl_seconds` is between one hour and ten years, that exactly one of `path` and
    /// `sampling_session_seq_id` is set, and that named weights have the kind [`SamplerSaveKind::Snapshot`].
    ///
    /// # Errors
    /// The error names the field `name`, `kind` or `ttl_seconds`.
    pub fn validate(&self) -> Result<(), InvalidInput> {
        if self.path.is_some() == self.sampling_session_seq_id.is_some() {
            return Err(InvalidInput::new(
                "name",
                "either a name or sampling_session_seq_id",
            ));
        }
        if self.path.is_some() && self.kind == Some(SamplerSaveKind::Inflight) {
            return Err(InvalidInput::new(
                "kind",
                "snapshot for named weights, got inflight",
            ));
        }
        validate_save(self.path.as_deref(), self.ttl_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn save_with_invalid_name_or_time_to_live_is_rejected() {
        let save = |path: &str, ttl_seconds| SaveWeights {
            model_id: "m".into(),
            seq_id: 1,
            path: Some(path.into()),
            ttl_seconds,
            overwrite: None,
            user_metadata: None,
        };
        assert!(save("step-10", Some(3600)).validate().is_ok());
        for name in ["", "a/b", "../x", ".hidden", "a b", "tinker://m/weights/x"] {
            assert_eq!(
                save(name, None).validate().unwrap_err().field(),
                "name",
                "{name}"
            );
        }
        assert_eq!(
            save("x", Some(10)).validate().unwrap_err().field(),
            "ttl_seconds"
        );
        assert_eq!(
            serde_json::to_string(&save("x", None)).unwrap(),
            r#"{"model_id":"m","seq_id":1,"path":"x"}"#
        );
    }

    #[test]
    fn save_and_load_results_of_each_server_are_decoded() {
        let saved = SavedSamplerWeights::from_json(
            br#"{"path": null, "sampling_session_id": "sampling_1", "type": "x"}"#,
        )
        .unwrap();
        assert_eq!(saved.sampling_session_id.as_deref(), Some("sampling_1"));
        let saved = SavedSamplerWeights::from_json(br#"{"path": "tinker://m/s1"}"#).unwrap();
        assert_eq!(saved.path.unwrap().name(), "s1");
        let saved = SavedWeights::from_json(br#"{"path": "/srv/s1"}"#).unwrap();
        assert_eq!(saved.path.as_str(), "/srv/s1");
        let loaded = LoadedWeights::from_json(br#"{"type": "load_weights"}"#).unwrap();
        assert_eq!((loaded.path, loaded.model_id), (None, None));
    }

    #[test]
    fn save_or_load_result_without_required_fields_is_rejected() {
        for body in [
            r#"{"detail": "disk full"}"#,
            r#"{"path": null, "sampling_session_id": null}"#,
            r#"{"message": "hello"}"#,
            "null",
        ] {
            let body = body.as_bytes();
            assert!(SavedWeights::from_json(body).is_err());
            assert!(SavedSamplerWeights::from_json(body).is_err());
        }
        for body in [r#"{"detail": "disk full"}"#, r#"{"type": "save_weights"}"#] {
            let error = LoadedWeights::from_json(body.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(body), "{error}");
        }
    }
}
