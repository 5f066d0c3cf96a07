//! Listings: models, training runs, checkpoints, sessions, samplers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::answer::read_json;
use crate::nulls::null_is_default;
use crate::{CheckpointKind, DecodeError, OptimizerConfig};

/// The answer of `GET /get_server_capabilities`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Capabilities {
    /// The models that the server offers.
    #[serde(default)]
    pub supported_models: Vec<SupportedModel>,
}

/// A model that a server offers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct SupportedModel {
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_name: Option<String>,
    /// The longest context, in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_context_length: Option<u64>,
    /// Whether it can be trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trainable: Option<bool>,
    /// Whether it can be sampled from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampleable: Option<bool>,
}

impl SupportedModel {
    /// A model of this name and context length that can be trained and sampled from.
    pub fn new(name: impl Into<String>, max_context_length: u64) -> Self {
        Self {
            model_name: Some(name.into()),
            max_context_length: Some(max_context_length),
            trainable: Some(true),
            sampleable: Some(true),
        }
    }
}

/// Where a listing stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Cursor {
    /// The first entry of this page.
    pub offset: u64,
    /// The most entries in a page.
    pub limit: u64,
    /// All entries.
    pub total_count: u64,
}

/// A model that is or was trained. Times are RFC 3339 texts, on some servers without a zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TrainingRun {
    /// The run, which is the model's id.
    pub training_run_id: String,
    /// The base model's name.
    pub base_model: String,
    /// Whose it is.
    #[serde(default, deserialize_with = "null_is_default")]
    pub model_owner: String,
    /// Whether it is a LoRA adapter.
    #[serde(default, deserialize_with = "null_is_default")]
    pub is_lora: bool,
    /// Whether it is beyond repair.
    #[serde(default, deserialize_with = "null_is_default")]
    pub corrupted: bool,
    /// The adapter's rank.
    #[serde(default)]
    pub lora_rank: Option<u32>,
    /// When it was last used.
    #[serde(default, deserialize_with = "null_is_default")]
    pub last_request_time: String,
    /// The newest training checkpoint.
    #[serde(default)]
    pub last_checkpoint: Option<Checkpoint>,
    /// The newest sampler checkpoint.
    #[serde(default)]
    pub last_sampler_checkpoint: Option<Checkpoint>,
    /// The caller's own notes.
    #[serde(default)]
    pub user_metadata: Option<BTreeMap<String, String>>,
}

/// What a listing says that a checkpoint is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum CheckpointType {
    /// One that can be named in a path.
    Known(CheckpointKind),
    /// One that this version does not know, as it was sent.
    Other(String),
}

/// Saved weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Checkpoint {
    /// `<kind>/<name>`.
    pub checkpoint_id: String,
    /// What it is for.
    pub checkpoint_type: CheckpointType,
    /// When it was saved.
    pub time: String,
    /// Where it is; kept as text, since servers differ in its form.
    pub tinker_path: String,
    /// Its size.
    #[serde(default)]
    pub size_bytes: Option<u64>,
    /// Whether everybody may read it.
    #[serde(default, deserialize_with = "null_is_default")]
    pub public: bool,
    /// The caller's own notes.
    #[serde(default)]
    pub user_metadata: Option<BTreeMap<String, String>>,
    /// When it goes; never when absent.
    #[serde(default)]
    pub expires_at: Option<String>,
}

/// The answer of `GET /training_runs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TrainingRunList {
    /// One page.
    pub training_runs: Vec<TrainingRun>,
    /// Where it stands.
    #[serde(default)]
    pub cursor: Option<Cursor>,
}

/// The answer of `GET /training_runs/{id}/checkpoints` and `GET /checkpoints`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CheckpointList {
    /// One page, or all of a run.
    pub checkpoints: Vec<Checkpoint>,
    /// Where it stands.
    #[serde(default)]
    pub cursor: Option<Cursor>,
}

impl CheckpointList {
    /// Reads a list.
    ///
    /// # Errors
    /// When the body is none.
    pub fn read(body: &[u8]) -> Result<Self, DecodeError> {
        read_json(body).map_err(|error| error.quoting(body))
    }
}

/// The answer of `GET /sessions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SessionList {
    /// Their ids.
    pub sessions: Vec<String>,
}

/// The answer of `GET /sessions/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SessionInfo {
    /// Its training runs.
    #[serde(default)]
    pub training_run_ids: Vec<String>,
    /// Its samplers.
    #[serde(default)]
    pub sampler_ids: Vec<String>,
    /// The caller's own notes.
    #[serde(default)]
    pub user_metadata: Option<BTreeMap<String, String>>,
    /// A name to find it by.
    #[serde(default)]
    pub display_name: Option<String>,
}

/// The answer of `GET /samplers/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SamplerInfo {
    /// The sampler.
    #[serde(default)]
    pub sampler_id: String,
    /// Its base model.
    #[serde(default)]
    pub base_model: String,
    /// Its checkpoint, when it has one.
    #[serde(default)]
    pub model_path: Option<String>,
}

/// `POST /weights_info`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WeightsInfoRequest {
    /// The checkpoint.
    pub tinker_path: String,
}

/// What a checkpoint was made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WeightsInfo {
    /// The base model's name.
    pub base_model: String,
    /// The optimizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimizer_config: Option<OptimizerConfig>,
    /// Whether it is a LoRA adapter.
    #[serde(default, deserialize_with = "null_is_default")]
    pub is_lora: bool,
    /// The adapter's rank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora_rank: Option<u32>,
    /// Whether the unembedding was trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_unembed: Option<bool>,
    /// Whether the MLPs were trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_mlp: Option<bool>,
    /// Whether attention was trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_attn: Option<bool>,
}

impl WeightsInfo {
    /// Reads the answer.
    ///
    /// # Errors
    /// When the body is none.
    pub fn read(body: &[u8]) -> Result<Self, DecodeError> {
        read_json(body).map_err(|error| error.quoting(body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_of_open_servers_are_read() {
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
