//! Requests and results of creating, describing and unloading models.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::nulls::null_is_default;
use crate::poll::read_known;
use crate::response::read_json;
use crate::{DecodeError, InvalidInput, OperationResult, lenient};

/// The configuration of a LoRA adapter.
///
/// Fields that are `None` are not sent. The server then trains all groups of layers and chooses a seed. [`LoraConfig::default`] has rank 32,
/// the default of the API.
///
/// ```
/// # use tinkers_wire as tinkers;
/// use tinkers::LoraConfig;
///
/// let config = LoraConfig::rank(16).seed(7).train_unembed(false);
/// config.validate()?;
/// assert_eq!(LoraConfig::default().rank, 32);
/// # Ok::<(), tinkers_wire::InvalidInput>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct LoraConfig {
    /// The rank of the adapter.
    #[serde(default = "default_rank", deserialize_with = "rank_or_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<u32>"))]
    pub rank: u32,
    /// The seed for the random initial weights of the adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Whether to train an adapter of the unembedding layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_unembed: Option<bool>,
    /// Whether to train adapters of the MLP layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_mlp: Option<bool>,
    /// Whether to train adapters of the attention layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_attn: Option<bool>,
}

impl LoraConfig {
    /// Creates a configuration with this rank. The server uses its defaults for all other fields.
    pub const fn rank(rank: u32) -> Self {
        Self {
            rank,
            seed: None,
            train_unembed: None,
            train_mlp: None,
            train_attn: None,
        }
    }

    /// Sets the seed for the random initial weights of the adapter.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Sets whether to train an adapter of the unembedding layer.
    #[must_use]
    pub const fn train_unembed(mut self, train: bool) -> Self {
        self.train_unembed = Some(train);
        self
    }

    /// Sets whether to train adapters of the MLP layers.
    #[must_use]
    pub const fn train_mlp(mut self, train: bool) -> Self {
        self.train_mlp = Some(train);
        self
    }

    /// Sets whether to train adapters of the attention layers.
    #[must_use]
    pub const fn train_attn(mut self, train: bool) -> Self {
        self.train_attn = Some(train);
        self
    }

    /// Checks that the rank is not 0 and that at least one group of layers is trained.
    ///
    /// # Errors
    /// The error names the field `lora_config.rank` or `lora_config.train_attn`.
    pub fn validate(&self) -> Result<(), InvalidInput> {
        if self.rank == 0 {
            return Err(InvalidInput::new("lora_config.rank", "at least 1, got 0"));
        }
        if [self.train_unembed, self.train_mlp, self.train_attn]
            .iter()
            .all(|train| *train == Some(false))
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
    /// Returns a configuration of rank 32, the default of the API.
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

/// The configuration of the optimizer of a model. It is fixed when the model is created. Fields of optimizer families that this version does not
/// know are decoded and sent unchanged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct OptimizerConfig {
    /// The optimizer family, such as `adamw` or `dimuon`.
    #[serde(rename = "type")]
    pub family: String,
    /// The fields of the configuration that only this optimizer family has.
    #[serde(flatten)]
    pub fields: BTreeMap<String, Value>,
}

impl OptimizerConfig {
    /// Creates the configuration of an optimizer family, such as `adamw`, without further fields.
    pub fn new(family: impl Into<String>) -> Self {
        Self {
            family: family.into(),
            fields: BTreeMap::new(),
        }
    }

    /// Sets a field of the configuration that only this optimizer family has.
    #[must_use]
    pub fn with(mut self, field: impl Into<String>, value: impl Into<Value>) -> Self {
        self.fields.insert(field.into(), value.into());
        self
    }

    /// Returns whether this is the default optimizer: AdamW without further fields.
    pub fn is_default(&self) -> bool {
        self.family == "adamw" && self.fields.is_empty()
    }
}

/// `POST /create_model`: creates a model with a new LoRA adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CreateModel {
    /// The id of the session.
    pub session_id: String,
    /// The sequence number of the model in the session, from 0. A repeated request with the same number creates no second model. Without a
    /// number, each request creates another model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_seq_id: Option<u64>,
    /// The name of the base model.
    pub base_model: String,
    /// Metadata of the model, chosen by the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_metadata: Option<BTreeMap<String, String>>,
    /// The configuration of the LoRA adapter.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<LoraConfig>"))]
    pub lora_config: LoraConfig,
    /// The optimizer; AdamW if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimizer_config: Option<OptimizerConfig>,
}

/// The result of [`CreateModel`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ModelCreated {
    /// The id of the new model.
    #[serde(deserialize_with = "lenient::id")]
    pub model_id: String,
}

impl OperationResult for ModelCreated {
    const PROTOBUF: bool = false;

    fn from_json(body: &[u8]) -> Result<Self, DecodeError> {
        read_json(body).map_err(|error| error.quoting(body))
    }
}

/// The body of requests with a model id as the only argument, such as `POST /get_info`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ModelRef {
    /// The id of the model.
    pub model_id: String,
}

/// `POST /unload_model`: removes a model from the server.
pub type UnloadModel = ModelRef;

/// The result of [`UnloadModel`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct UnloadedModel {
    /// The id of the unloaded model.
    #[serde(default, deserialize_with = "lenient::optional_id")]
    pub model_id: Option<String>,
}

impl OperationResult for UnloadedModel {
    const PROTOBUF: bool = false;

    fn from_json(body: &[u8]) -> Result<Self, DecodeError> {
        read_known(body, "unload_model", &["model_id"])
    }
}

/// The description of a model, the response to `POST /get_info`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ModelInfo {
    /// The id of the model.
    #[serde(deserialize_with = "lenient::id")]
    pub model_id: String,
    /// The description of the base model.
    #[serde(default, deserialize_with = "null_is_default")]
    pub model_data: ModelData,
    /// The optimizer of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimizer_config: Option<OptimizerConfig>,
    /// Whether the model is a LoRA adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_lora: Option<bool>,
    /// The rank of the LoRA adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora_rank: Option<u32>,
    /// The name of the base model. Servers that do not set this name in `model_data` send it here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_name: Option<String>,
}

impl ModelInfo {
    /// Creates a description in which only the model id is set.
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

    /// Decodes the response to `POST /get_info`.
    ///
    /// # Errors
    /// Fails if the body cannot be decoded.
    pub fn read(body: &[u8]) -> Result<Self, DecodeError> {
        read_json(body).map_err(|error| error.quoting(body))
    }

    /// Returns the name of the base model from any of the fields in which servers send it, or `None` if the server sends no name.
    pub fn base_model(&self) -> Option<&str> {
        self.model_data
            .model_name
            .as_deref()
            .or(self.model_name.as_deref())
            .or(self.model_data.base_model.as_deref())
    }
}

/// The description of the base model in a [`ModelInfo`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ModelData {
    /// The name of the architecture of the base model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// The name of the base model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_name: Option<String>,
    /// The name of the base model. Servers that do not set `model_name` send it here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,
    /// The name of the tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer_id: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn create_model_request_omits_unset_fields() {
        let create = CreateModel {
            session_id: "s".into(),
            model_seq_id: Some(0),
            base_model: "Qwen/Qwen3-8B".into(),
            user_metadata: None,
            lora_config: LoraConfig::rank(32).seed(7),
            optimizer_config: None,
        };
        assert_eq!(
            serde_json::to_string(&create).unwrap(),
            r#"{"session_id":"s","model_seq_id":0,"base_model":"Qwen/Qwen3-8B","lora_config":{"rank":32,"seed":7}}"#
        );
    }

    #[test]
    fn adamw_without_further_fields_is_the_only_default_optimizer() {
        for (json, expected) in [
            (r#"{"type": "adamw"}"#, true),
            (r#"{"type": "adamw", "beta3": 1}"#, false),
            (r#"{"type": "dimuon"}"#, false),
        ] {
            let config: OptimizerConfig = serde_json::from_str(json).unwrap();
            assert_eq!(config.is_default(), expected, "{json}");
        }
        assert!(OptimizerConfig::new("adamw").is_default());
        let muon = OptimizerConfig::new("dimuon").with("version", 1);
        let json = serde_json::to_value(&muon).unwrap();
        assert_eq!(json, serde_json::json!({ "type": "dimuon", "version": 1 }));
    }

    #[test]
    fn base_model_is_found_in_any_of_the_fields_that_servers_use() {
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
    fn lora_config_without_trained_layers_is_rejected() {
        let none = LoraConfig::rank(4)
            .train_attn(false)
            .train_mlp(false)
            .train_unembed(false);
        assert!(none.validate().is_err());
        assert_eq!(
            LoraConfig::rank(0).validate().unwrap_err().field(),
            "lora_config.rank"
        );
        assert!(LoraConfig::rank(4).train_attn(false).validate().is_ok());
    }
}
