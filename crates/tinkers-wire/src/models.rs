//! Creating, describing and unloading models.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::answer::read_json;
use crate::nulls::null_is_default;
use crate::poll::read_known;
use crate::{DecodeError, InvalidInput, OperationResult, lenient};

/// The shape of a LoRA adapter. What is `None` is the server's choice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LoraConfig {
    /// The rank.
    #[serde(default = "default_rank", deserialize_with = "rank_or_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<u32>"))]
    pub rank: u32,
    /// The seed of its random start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Whether the unembedding is trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_unembed: Option<bool>,
    /// Whether the MLPs are trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_mlp: Option<bool>,
    /// Whether attention is trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_attn: Option<bool>,
}

impl LoraConfig {
    /// All parts, of this rank.
    pub const fn rank(rank: u32) -> Self {
        Self {
            rank,
            seed: None,
            train_unembed: None,
            train_mlp: None,
            train_attn: None,
        }
    }

    /// Checks rank and parts.
    ///
    /// # Errors
    /// Names `lora_config.rank`, or the parts when all are off.
    pub fn validate(&self) -> Result<(), InvalidInput> {
        if self.rank == 0 {
            return Err(InvalidInput::new("lora_config.rank", "at least 1, got 0"));
        }
        if [self.train_unembed, self.train_mlp, self.train_attn]
            .iter()
            .all(|part| *part == Some(false))
        {
            let field = "lora_config.train_attn";
            return Err(InvalidInput::new(
                field,
                "at least one of train_attn, train_mlp and train_unembed to be true",
            ));
        }
        Ok(())
    }
}

impl Default for LoraConfig {
    /// Rank 32, the default of the API.
    fn default() -> Self {
        Self::rank(default_rank())
    }
}

fn default_rank() -> u32 {
    32
}

fn rank_or_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(default_rank))
}

/// The optimizer family of a model, fixed at its creation. Unknown families are kept with their fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OptimizerConfig {
    /// `adamw`, `dimuon`, or a later one.
    #[serde(rename = "type")]
    pub family: String,
    /// The family's own fields.
    #[serde(flatten)]
    pub fields: BTreeMap<String, Value>,
}

impl OptimizerConfig {
    /// Whether it is what a model has for which none was chosen: AdamW without fields of its own.
    pub fn is_default(&self) -> bool {
        self.family == "adamw" && self.fields.is_empty()
    }
}

/// `POST /create_model`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CreateModel {
    /// The session.
    pub session_id: String,
    /// Counts from 0 in the session; makes the creation repeatable. Without one, each request makes another model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_seq_id: Option<u64>,
    /// The base model's name.
    pub base_model: String,
    /// The caller's own notes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_metadata: Option<BTreeMap<String, String>>,
    /// The adapter.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<LoraConfig>"))]
    pub lora_config: LoraConfig,
    /// The optimizer; `None` is AdamW.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimizer_config: Option<OptimizerConfig>,
}

/// The result of a creation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ModelCreated {
    /// The new model.
    #[serde(deserialize_with = "lenient::id")]
    pub model_id: String,
}

impl OperationResult for ModelCreated {
    const PROTOBUF: bool = false;

    fn from_json(body: &[u8]) -> Result<Self, DecodeError> {
        read_json(body).map_err(|error| error.quoting(body))
    }
}

/// The body of requests that name a model and no more, such as `POST /get_info`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ModelRef {
    /// The model.
    pub model_id: String,
}

/// `POST /unload_model`.
pub type UnloadModel = ModelRef;

/// The result of unloading.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct UnloadedModel {
    /// The model that was unloaded.
    #[serde(default, deserialize_with = "lenient::optional_id")]
    pub model_id: Option<String>,
}

impl OperationResult for UnloadedModel {
    const PROTOBUF: bool = false;

    fn from_json(body: &[u8]) -> Result<Self, DecodeError> {
        read_known(body, "unload_model", &["model_id"])
    }
}

/// What `POST /get_info` tells of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ModelInfo {
    /// The model.
    pub model_id: String,
    /// About its base.
    #[serde(default)]
    pub model_data: ModelData,
    /// Its optimizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimizer_config: Option<OptimizerConfig>,
    /// Whether it is a LoRA adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_lora: Option<bool>,
    /// The adapter's rank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora_rank: Option<u32>,
    /// The base model's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_name: Option<String>,
}

impl ModelInfo {
    /// A description with nothing but the id.
    pub fn new(model_id: impl Into<String>) -> Self {
        Self {
            model_id: model_id.into(),
            model_data: ModelData::default(),
            optimizer_config: None,
            is_lora: None,
            lora_rank: None,
            model_name: None,
        }
    }

    /// Reads a description.
    ///
    /// # Errors
    /// When the body is none.
    pub fn read(body: &[u8]) -> Result<Self, DecodeError> {
        read_json(body).map_err(|error| error.quoting(body))
    }

    /// The base model's name, wherever the server put it.
    pub fn base_model(&self) -> Option<&str> {
        self.model_data
            .model_name
            .as_deref()
            .or(self.model_name.as_deref())
            .or(self.model_data.base_model.as_deref())
    }
}

/// About the base of a model.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ModelData {
    /// The architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// The base model's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_name: Option<String>,
    /// The same, as some servers call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,
    /// The tokenizer's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer_id: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_creation_sends_what_was_set() {
        let create = CreateModel {
            session_id: "s".into(),
            model_seq_id: Some(0),
            base_model: "Qwen/Qwen3-8B".into(),
            user_metadata: None,
            lora_config: LoraConfig {
                seed: Some(7),
                ..LoraConfig::rank(32)
            },
            optimizer_config: None,
        };
        assert_eq!(
            serde_json::to_string(&create).unwrap(),
            r#"{"session_id":"s","model_seq_id":0,"base_model":"Qwen/Qwen3-8B","lora_config":{"rank":32,"seed":7}}"#
        );
    }

    #[test]
    fn adamw_alone_is_the_default_optimizer() {
        for (json, is) in [
            (r#"{"type": "adamw"}"#, true),
            (r#"{"type": "adamw", "beta3": 1}"#, false),
            (r#"{"type": "dimuon"}"#, false),
        ] {
            let config: OptimizerConfig = serde_json::from_str(json).unwrap();
            assert_eq!(config.is_default(), is, "{json}");
        }
    }

    #[test]
    fn the_base_model_is_found_where_servers_put_it() {
        let hosted = r#"{"model_id": "m", "model_data": {"model_name": "a"}, "type": "get_info", "later": 1}"#;
        let skyrl = r#"{"model_id": "m", "status": "created", "model_data": {"base_model": "b", "lora_config": {"seed": null}}}"#;
        for (json, expected) in [
            (hosted, Some("a")),
            (skyrl, Some("b")),
            (r#"{"model_id": "m"}"#, None),
        ] {
            assert_eq!(
                serde_json::from_str::<ModelInfo>(json)
                    .unwrap()
                    .base_model(),
                expected
            );
        }
    }

    #[test]
    fn an_adapter_that_trains_nothing_is_refused() {
        let none = LoraConfig {
            train_attn: Some(false),
            train_mlp: Some(false),
            train_unembed: Some(false),
            ..LoraConfig::rank(4)
        };
        assert!(none.validate().is_err());
        assert_eq!(
            LoraConfig::rank(0).validate().unwrap_err().field(),
            "lora_config.rank"
        );
        assert!(
            LoraConfig {
                train_attn: Some(false),
                ..LoraConfig::rank(4)
            }
            .validate()
            .is_ok()
        );
    }
}
