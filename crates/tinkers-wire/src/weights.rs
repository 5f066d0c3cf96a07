//! Saving and loading weights.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::answer::read_json;
use crate::nulls::null_is_default;
use crate::poll::read_known;
use crate::{DecodeError, InvalidInput, OperationResult, OptimizerConfig, TinkerPath, lenient};

/// `POST /save_weights`: weights and optimizer state, to go on training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SaveWeights {
    /// The model.
    pub model_id: String,
    /// The number of this request among the model's.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<u64>"))]
    pub seq_id: u64,
    /// A bare name; the server's choice when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Deleted after so many seconds; never when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
    /// Whether a checkpoint of that name is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overwrite: Option<bool>,
    /// The caller's own notes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_metadata: Option<BTreeMap<String, String>>,
}

/// Whether a sampler keeps the weights of its creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum SamplerSaveKind {
    /// It keeps them.
    Snapshot,
    /// It follows later saves of the model.
    Inflight,
}

/// `POST /save_weights_for_sampler`: named with `path`, or unnamed with `sampling_session_seq_id`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SaveWeightsForSampler {
    /// The model.
    pub model_id: String,
    /// The number of this request among the model's.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<u64>"))]
    pub seq_id: u64,
    /// A bare name, for weights that stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The number of the sampler that is made of weights without a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling_session_seq_id: Option<u64>,
    /// Whether the sampler keeps these weights; a snapshot when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<SamplerSaveKind>,
    /// Deleted after so many seconds; named only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
    /// The caller's own notes; named only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_metadata: Option<BTreeMap<String, String>>,
}

/// The result of [`SaveWeights`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SavedWeights {
    /// Where they are.
    pub path: TinkerPath,
}

/// The result of [`SaveWeightsForSampler`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SavedSamplerWeights {
    /// Where they are, when they have a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<TinkerPath>,
    /// The sampler made of them, when they have none.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient::optional_id"
    )]
    pub sampling_session_id: Option<String>,
}

/// `POST /load_weights`: a new model from a checkpoint, with `session_id` and `model_seq_id`, or into a model that is
/// there, with `model_id` and `seq_id`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LoadWeights {
    /// The checkpoint.
    pub path: TinkerPath,
    /// Whether the optimizer's state is restored too.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<bool>"))]
    pub optimizer: bool,
    /// The session of the new model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The number of the new model in the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_seq_id: Option<u64>,
    /// The model that is loaded into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_id: Option<String>,
    /// The number of this request among that model's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq_id: Option<u64>,
    /// The base model, when it is not the checkpoint's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,
    /// The caller's own notes on the new model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_metadata: Option<BTreeMap<String, String>>,
    /// The optimizer of the new model, when its state is not restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimizer_config: Option<OptimizerConfig>,
    /// A token of the account that owns the checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_access_token: Option<String>,
}

/// The result of [`LoadWeights`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LoadedWeights {
    /// The checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<TinkerPath>,
    /// The model.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient::optional_id"
    )]
    pub model_id: Option<String>,
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
            let missing = DecodeError::new("neither `path` nor `sampling_session_id`");
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

/// The longest name of a checkpoint, in bytes.
pub const MAX_CHECKPOINT_NAME: usize = 255;

/// Checks the bare name of a checkpoint. What passes can be sent, listed and stored.
///
/// # Errors
/// Names `name`.
pub fn check_checkpoint_name(name: &str) -> Result<(), InvalidInput> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_of_length = (1..=MAX_CHECKPOINT_NAME).contains(&name.len());
    if is_of_length && name.chars().all(fits) && !name.starts_with('.') {
        return Ok(());
    }
    let expected = format!(
        "a name of 1 to {MAX_CHECKPOINT_NAME} letters, digits, '-', '_' or '.', not opening with '.', got {name:?}"
    );
    Err(InvalidInput::new("name", expected))
}

/// Checks the bare name of a checkpoint and its time to live.
fn validate_save(name: Option<&str>, ttl_seconds: Option<u64>) -> Result<(), InvalidInput> {
    if let Some(name) = name {
        check_checkpoint_name(name)?;
    }
    if let Some(ttl) = ttl_seconds
        && !(3600..=315_360_000).contains(&ttl)
    {
        return Err(InvalidInput::new(
            "ttl_seconds",
            format_args!("3600 to 315360000 (ten years), got {ttl}"),
        ));
    }
    Ok(())
}

impl SaveWeights {
    /// Checks name and time to live.
    ///
    /// # Errors
    /// Names `name` or `ttl_seconds`.
    pub fn validate(&self) -> Result<(), InvalidInput> {
        validate_save(self.path.as_deref(), self.ttl_seconds)
    }
}

impl SaveWeightsForSampler {
    /// Checks that it is named or unnamed and not both, the name, and the time to live.
    ///
    /// # Errors
    /// Names `name`, `kind` or `ttl_seconds`.
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
                "snapshot for weights with a name, got inflight",
            ));
        }
        validate_save(self.path.as_deref(), self.ttl_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_times_to_live_are_checked() {
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
    fn answers_of_open_servers_are_read() {
        let saved = SavedSamplerWeights::from_json(
            br#"{"path": null, "sampling_session_id": "sampling_1", "type": "x"}"#,
        )
        .unwrap();
        assert_eq!(saved.sampling_session_id.as_deref(), Some("sampling_1"));
        let saved = SavedSamplerWeights::from_json(br#"{"path": "tinker://m/s1"}"#).unwrap();
        assert_eq!(saved.path.unwrap().name(), "s1");
        assert!(SavedWeights::from_json(br#"{"path": "somewhere"}"#).is_err());
        let loaded = LoadedWeights::from_json(br#"{"type": "load_weights"}"#).unwrap();
        assert_eq!((loaded.path, loaded.model_id), (None, None));
    }

    #[test]
    fn a_result_without_its_fields_is_no_success() {
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
