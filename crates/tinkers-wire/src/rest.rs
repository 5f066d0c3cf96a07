//! REST responses: server capabilities, training runs, checkpoints, sessions and samplers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::names::display_name;
use crate::nulls::null_is_default;
use crate::response::read_json;
use crate::{CheckpointKind, DecodeError, OptimizerConfig, lenient};

/// The models that a server offers, the response to `GET /get_server_capabilities`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Capabilities {
    /// The models that the server offers.
    #[serde(default, deserialize_with = "supported_models")]
    pub supported_models: Vec<SupportedModel>,
}

/// A base model that a server offers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct SupportedModel {
    /// The name of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_name: Option<String>,
    /// The maximum context length in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_context_length: Option<u64>,
    /// Whether the model can be trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trainable: Option<bool>,
    /// Whether the model can be sampled from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampleable: Option<bool>,
}

/// Deserialises the supported models. Some servers list the names as strings, or in the field `model_id`. Entries of other forms are skipped.
fn supported_models<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<SupportedModel>, D::Error> {
    let entries: Option<Vec<Value>> = Option::deserialize(deserializer)?;
    let model = |entry: Value| {
        if let Value::String(name) = entry {
            return Some(SupportedModel {
                model_name: Some(name),
                ..SupportedModel::default()
            });
        }
        let names = ["model_name", "model_id", "id", "name"];
        let name = names.iter().find_map(|field| entry.get(field)?.as_str());
        let model_name = Some(name?.to_owned());
        let length = entry.get("max_context_length").and_then(lenient::as_i64);
        let flag = |field: &str| entry.get(field).and_then(Value::as_bool);
        Some(SupportedModel {
            model_name,
            max_context_length: length.and_then(|length| length.try_into().ok()),
            trainable: flag("trainable"),
            sampleable: flag("sampleable"),
        })
    };
    Ok(entries
        .unwrap_or_default()
        .into_iter()
        .filter_map(model)
        .collect())
}

impl SupportedModel {
    /// Creates a model that can be trained and sampled from.
    pub fn new(name: impl Into<String>, max_context_length: u64) -> Self {
        Self {
            model_name: Some(name.into()),
            max_context_length: Some(max_context_length),
            trainable: Some(true),
            sampleable: Some(true),
        }
    }
}

impl Capabilities {
    /// Creates capabilities from the models that a server offers.
    pub fn new(supported_models: Vec<SupportedModel>) -> Self {
        Self { supported_models }
    }
}

/// The position of one page within a listing, such as the list of training runs, that the server returns in pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Cursor {
    /// The index of the first entry of this page in the whole listing.
    #[serde(default, deserialize_with = "lenient::count")]
    pub offset: u64,
    /// The maximum number of entries per page.
    #[serde(default, deserialize_with = "lenient::count")]
    pub limit: u64,
    /// The number of entries of the whole listing. A cursor without a valid number is not decoded.
    #[serde(deserialize_with = "lenient::required_count")]
    pub total_count: u64,
}

impl Cursor {
    /// Creates the position of the page that begins at the entry `offset` of a listing of `total_count` entries.
    pub fn new(offset: u64, limit: u64, total_count: u64) -> Self {
        Self {
            offset,
            limit,
            total_count,
        }
    }
}

/// A training run. Times are RFC 3339 strings; some servers omit the time zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct TrainingRun {
    /// The id of the training run. The model of the run has the same id.
    pub training_run_id: String,
    /// The name of the base model.
    pub base_model: String,
    /// The owner of the model.
    #[serde(default, deserialize_with = "null_is_default")]
    pub model_owner: String,
    /// Whether the model is a LoRA adapter.
    #[serde(default, deserialize_with = "null_is_default")]
    pub is_lora: bool,
    /// Whether the model is corrupted and cannot be used.
    #[serde(default, deserialize_with = "null_is_default")]
    pub corrupted: bool,
    /// The rank of the LoRA adapter.
    #[serde(default, deserialize_with = "lenient::optional_count")]
    pub lora_rank: Option<u32>,
    /// The time of the last request for the model, an RFC 3339 string.
    #[serde(default, deserialize_with = "null_is_default")]
    pub last_request_time: String,
    /// The latest checkpoint of the run with weights and optimizer state.
    #[serde(default, deserialize_with = "lenient::optional")]
    pub last_checkpoint: Option<Checkpoint>,
    /// The latest checkpoint of the run with weights to sample from.
    #[serde(default, deserialize_with = "lenient::optional")]
    pub last_sampler_checkpoint: Option<Checkpoint>,
    /// Metadata of the training run, chosen by the caller.
    #[serde(default, deserialize_with = "lenient::optional_metadata")]
    pub user_metadata: Option<BTreeMap<String, String>>,
}

impl TrainingRun {
    /// Creates a training run in which only the id and the base model are set.
    pub fn new(training_run_id: impl Into<String>, base_model: impl Into<String>) -> Self {
        Self {
            training_run_id: training_run_id.into(),
            base_model: base_model.into(),
            model_owner: String::new(),
            is_lora: false,
            corrupted: false,
            lora_rank: None,
            last_request_time: String::new(),
            last_checkpoint: None,
            last_sampler_checkpoint: None,
            user_metadata: None,
        }
    }
}

/// The purpose of a checkpoint in a listing, including purposes that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
#[expect(clippy::exhaustive_enums, reason = "`CheckpointKind` gets new kinds")]
pub enum CheckpointType {
    /// A kind that this version knows.
    Known(CheckpointKind),
    /// A kind that this version does not know, as sent by the server.
    Other(String),
}

impl CheckpointType {
    /// Returns the name used in listings, such as `training`.
    pub fn name(&self) -> &str {
        match self {
            Self::Known(kind) => kind.name(),
            Self::Other(name) => name,
        }
    }
}

display_name!(CheckpointType);

impl From<CheckpointKind> for CheckpointType {
    fn from(kind: CheckpointKind) -> Self {
        Self::Known(kind)
    }
}

/// A checkpoint in a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Checkpoint {
    /// The id within the training run, `<kind>/<name>`, such as `weights/step-10`.
    pub checkpoint_id: String,
    /// The purpose of the checkpoint.
    pub checkpoint_type: CheckpointType,
    /// The time at which the checkpoint was saved, an RFC 3339 string.
    #[serde(default, deserialize_with = "null_is_default")]
    pub time: String,
    /// The path of the checkpoint as a string, since not every server sends the form that [`TinkerPath`](crate::TinkerPath) parses.
    pub tinker_path: String,
    /// The size of the checkpoint in bytes, if the server sends it.
    #[serde(default, deserialize_with = "lenient::optional_count")]
    pub size_bytes: Option<u64>,
    /// Whether the checkpoint is publicly readable.
    #[serde(default, deserialize_with = "null_is_default")]
    pub public: bool,
    /// Metadata of the checkpoint, chosen by the caller.
    #[serde(default, deserialize_with = "lenient::optional_metadata")]
    pub user_metadata: Option<BTreeMap<String, String>>,
    /// The time at which the server deletes the checkpoint, an RFC 3339 string; `None` means never.
    #[serde(default)]
    pub expires_at: Option<String>,
    /// The name of the base model, if the server sends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,
}

impl Checkpoint {
    /// Creates a private checkpoint that never expires, without size and metadata.
    pub fn new(
        checkpoint_id: impl Into<String>,
        checkpoint_type: impl Into<CheckpointType>,
        time: impl Into<String>,
        tinker_path: impl Into<String>,
    ) -> Self {
        Self {
            checkpoint_id: checkpoint_id.into(),
            checkpoint_type: checkpoint_type.into(),
            time: time.into(),
            tinker_path: tinker_path.into(),
            size_bytes: None,
            public: false,
            user_metadata: None,
            expires_at: None,
            base_model: None,
        }
    }
}

/// A page of training runs, the response to `GET /training_runs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct TrainingRunList {
    /// The training runs of this page.
    pub training_runs: Vec<TrainingRun>,
    /// The position of this page in the listing, if the server sends it.
    #[serde(default, deserialize_with = "lenient::optional")]
    pub cursor: Option<Cursor>,
}

impl TrainingRunList {
    /// Creates a page of training runs. `cursor` is `None` if the list contains all training runs.
    pub fn new(training_runs: Vec<TrainingRun>, cursor: Option<Cursor>) -> Self {
        Self {
            training_runs,
            cursor,
        }
    }
}

/// A page of checkpoints, the response to `GET /checkpoints`, or all checkpoints of a training run, the response to
/// `GET /training_runs/{id}/checkpoints`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct CheckpointList {
    /// The checkpoints of this page or of the training run.
    pub checkpoints: Vec<Checkpoint>,
    /// The position of this page in the listing, if the server sends it.
    #[serde(default, deserialize_with = "lenient::optional")]
    pub cursor: Option<Cursor>,
}

impl CheckpointList {
    /// Creates a page of checkpoints. `cursor` is `None` if the list contains all checkpoints.
    pub fn new(checkpoints: Vec<Checkpoint>, cursor: Option<Cursor>) -> Self {
        Self {
            checkpoints,
            cursor,
        }
    }

    /// Decodes the list of checkpoints in the body of a response.
    ///
    /// # Errors
    /// Fails if the body cannot be decoded.
    pub fn read(body: &[u8]) -> Result<Self, DecodeError> {
        read_json(body).map_err(|error| error.quoting(body))
    }
}

/// The sessions of the user, the response to `GET /sessions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct SessionList {
    /// The ids of the sessions.
    #[serde(default, deserialize_with = "null_is_default")]
    pub sessions: Vec<String>,
}

/// The description of a session, the response to `GET /sessions/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct SessionInfo {
    /// The ids of the training runs of the session.
    #[serde(default, deserialize_with = "null_is_default")]
    pub training_run_ids: Vec<String>,
    /// The ids of the samplers of the session.
    #[serde(default, deserialize_with = "null_is_default")]
    pub sampler_ids: Vec<String>,
    /// Metadata of the session, chosen by the caller.
    #[serde(default, deserialize_with = "lenient::optional_metadata")]
    pub user_metadata: Option<BTreeMap<String, String>>,
    /// The display name of the session.
    #[serde(default)]
    pub display_name: Option<String>,
}

/// The description of a sampler, the response to `GET /samplers/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct SamplerInfo {
    /// The id of the sampler.
    #[serde(default)]
    pub sampler_id: String,
    /// The name of the base model.
    #[serde(default)]
    pub base_model: String,
    /// The path of the checkpoint that is sampled from; `None` if the sampler uses the base model.
    #[serde(default)]
    pub model_path: Option<String>,
}

/// `POST /weights_info`: asks how the weights of a checkpoint were trained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WeightsInfoRequest {
    /// The path of the checkpoint.
    pub tinker_path: String,
}

/// The description of how the weights of a checkpoint were trained, the response to `POST /weights_info`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct WeightsInfo {
    /// The name of the base model.
    pub base_model: String,
    /// The optimizer that the model was trained with, if the server sends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimizer_config: Option<OptimizerConfig>,
    /// Whether the model is a LoRA adapter.
    #[serde(default, deserialize_with = "null_is_default")]
    pub is_lora: bool,
    /// The rank of the LoRA adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora_rank: Option<u32>,
    /// Whether the unembedding layer was trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_unembed: Option<bool>,
    /// Whether the MLP layers were trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_mlp: Option<bool>,
    /// Whether the attention layers were trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_attn: Option<bool>,
}

impl WeightsInfo {
    /// Creates a description in which only the base model is set.
    pub fn new(base_model: impl Into<String>) -> Self {
        Self {
            base_model: base_model.into(),
            optimizer_config: None,
            is_lora: false,
            lora_rank: None,
            train_unembed: None,
            train_mlp: None,
            train_attn: None,
        }
    }

    /// Decodes the body of the response to `POST /weights_info`.
    ///
    /// # Errors
    /// Fails if the body cannot be decoded.
    pub fn read(body: &[u8]) -> Result<Self, DecodeError> {
        read_json(body).map_err(|error| error.quoting(body))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn total_count_that_cannot_be_decoded_is_unknown() {
        for (total, expected) in [
            (json!(3), Some(3)),
            (json!("3"), Some(3)),
            (json!(null), None),
            (json!(-1), None),
            (json!("many"), None),
        ] {
            let cursor = json!({"offset": 0, "limit": 2, "total_count": total});
            let list = json!({"training_runs": [], "cursor": cursor});
            let list: TrainingRunList = serde_json::from_value(list).unwrap();
            assert_eq!(list.cursor.map(|cursor| cursor.total_count), expected);
        }
    }

    #[test]
    fn rest_listings_of_all_servers_are_decoded() {
        let runs: TrainingRunList = serde_json::from_str(
            r#"{"training_runs": [{"training_run_id": "model_1", "base_model": "tiny/model", "model_owner": "default",
                "is_lora": true, "corrupted": false, "lora_rank": 8, "last_request_time": "2026-11-23T08:52:27.925306",
                "last_checkpoint": null, "last_sampler_checkpoint": null, "user_metadata": null}],
                "cursor": {"offset": 0, "limit": 5, "total_count": 1}}"#,
        )
        .unwrap();
        assert_eq!(runs.training_runs[0].lora_rank, Some(8));
        let list = br#"{"checkpoints": [
            {"checkpoint_id": "merged/a", "checkpoint_type": "merged", "time": "", "tinker_path": "tinker://r/merged/a", "public": null},
            {"checkpoint_id": "weights/a", "checkpoint_type": "training", "time": "", "tinker_path": "tinker://r/weights/a"}]}"#;
        let list = CheckpointList::read(list).unwrap();
        let types: Vec<&CheckpointType> = list
            .checkpoints
            .iter()
            .map(|one| &one.checkpoint_type)
            .collect();
        assert_eq!(
            types,
            [
                &CheckpointType::Other("merged".to_owned()),
                &CheckpointType::Known(CheckpointKind::Training)
            ]
        );
        let info: WeightsInfo =
            serde_json::from_str(r#"{"base_model": "b", "is_lora": true, "lora_rank": 8}"#)
                .unwrap();
        assert_eq!(info.lora_rank, Some(8));
        assert_eq!(
            serde_json::from_str::<Capabilities>("{}").unwrap(),
            Capabilities::default()
        );
    }
}
