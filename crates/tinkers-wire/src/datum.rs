//! Data: the examples of a training batch.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::nulls::null_is_default;
use crate::tensor::UntypedTensor;
use crate::{InvalidInput, ModelInput, TensorData, loss_input_dtype};

/// An example of a training batch: the model input and the inputs of the loss function.
///
/// Position `i` of `model_input` predicts `target_tokens[i]`. Cheap to clone: arrays are shared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Datum {
    /// The input of the model.
    pub model_input: ModelInput,
    /// The inputs of the loss function by name, with one element per position.
    #[serde(deserialize_with = "loss_inputs")]
    pub loss_fn_inputs: BTreeMap<String, TensorData>,
    /// The origin of the tokens of `model_input`, as spans that cover it without gaps.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<ProvenanceSpan>>"))]
    pub model_input_spans: Vec<ProvenanceSpan>,
    /// The origin of the target tokens, as spans that cover them without gaps.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<ProvenanceSpan>>"))]
    pub loss_fn_input_spans: Vec<ProvenanceSpan>,
}

/// A span of training tokens that came from a sampling request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ProvenanceSpan {
    /// Whether the span is part of the prompt or of the sampled tokens.
    pub kind: SpanKind,
    /// The id of the sampled sequence.
    pub sequence_id: String,
    /// The start of the span, in tokens.
    pub offset: u64,
    /// The length of the span, in tokens.
    pub length: u64,
}

/// The origin of a [`ProvenanceSpan`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum SpanKind {
    /// The prompt of the sampling request.
    Prompt,
    /// The sampled tokens.
    Sampled,
}

/// Clones the datum, which shares its arrays, so that calls accept borrowed data.
impl From<&Self> for Datum {
    fn from(datum: &Self) -> Self {
        datum.clone()
    }
}

impl Datum {
    /// Creates a datum without loss inputs; add them with [`Datum::with`].
    pub fn new(model_input: impl Into<ModelInput>) -> Self {
        Self {
            model_input: model_input.into(),
            loss_fn_inputs: BTreeMap::new(),
            model_input_spans: Vec::new(),
            loss_fn_input_spans: Vec::new(),
        }
    }

    /// Creates a datum for next-token prediction: the input is `tokens` without the last, the targets are `tokens` without the first, and
    /// `weights[i]` is the weight of predicting `tokens[i + 1]`.
    ///
    /// # Errors
    /// If there are fewer than two tokens, or `weights` does not have one element fewer than `tokens`.
    pub fn next_token(tokens: &[u32], weights: impl Into<Vec<f32>>) -> Result<Self, InvalidInput> {
        let weights = weights.into();
        if tokens.len() < 2 {
            return Err(InvalidInput::new(
                "tokens",
                format_args!("at least two tokens, got {}", tokens.len()),
            ));
        }
        if weights.len() != tokens.len() - 1 {
            let expected = format!(
                "{} weights, one per token except the first, got {}",
                tokens.len() - 1,
                weights.len()
            );
            return Err(InvalidInput::new("weights", expected));
        }
        Ok(Self::new(&tokens[..tokens.len() - 1])
            .with("target_tokens", TensorData::tokens(&tokens[1..]))
            .with("weights", weights))
    }

    /// Adds a loss input.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, tensor: impl Into<TensorData>) -> Self {
        self.loss_fn_inputs.insert(name.into(), tensor.into());
        self
    }

    /// Estimates the bytes in a training request before compression, as the official SDK does.
    pub fn estimated_bytes(&self) -> u64 {
        self.model_input.training_bytes()
            + self
                .loss_fn_inputs
                .values()
                .map(TensorData::estimated_bytes)
                .sum::<u64>()
    }

    /// Checks the model input, each tensor, and that the loss inputs have one row per position.
    ///
    /// # Errors
    /// Names the invalid field, such as `loss_fn_inputs.target_tokens`.
    pub fn validate(&self) -> Result<(), InvalidInput> {
        self.model_input
            .validate()
            .map_err(|error| error.within("model_input."))?;
        let positions = self.model_input.len();
        for (name, tensor) in &self.loss_fn_inputs {
            tensor
                .validate()
                .map_err(|error| error.within(format_args!("loss_fn_inputs.{name}.")))?;
            let rows = tensor.shape().first().copied();
            if PER_POSITION.contains(&name.as_str())
                && let (Some(positions), Some(rows)) = (positions, rows)
                && rows != positions
            {
                let expected =
                    format!("{positions} rows, one per position of model_input, got {rows}");
                return Err(InvalidInput::new(
                    format!("loss_fn_inputs.{name}"),
                    expected,
                ));
            }
        }
        if let Some(targets) = self.loss_fn_inputs.get("target_tokens") {
            let Some(ids) = targets.as_i64() else {
                return Err(InvalidInput::new(
                    "loss_fn_inputs.target_tokens",
                    "int64 token ids, got float32",
                ));
            };
            if let Some(id) = ids
                .iter()
                .find(|&&id| !(-1..=i64::from(i32::MAX)).contains(&id))
            {
                let expected = format!("token ids from 0 to {}, got {id}", i32::MAX);
                return Err(InvalidInput::new("loss_fn_inputs.target_tokens", expected));
            }
        }
        Ok(())
    }
}

/// Deserialises tensors by name. A tensor without a dtype has the dtype of the loss input of that name.
fn loss_inputs<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, TensorData>, D::Error> {
    struct InputsVisitor;

    impl<'de> Visitor<'de> for InputsVisitor {
        type Value = BTreeMap<String, TensorData>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("tensors by name")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut inputs = BTreeMap::new();
            while let Some(name) = map.next_key::<String>()? {
                let tensor = map.next_value_seed(NamedTensor(&name))?;
                inputs.insert(name, tensor);
            }
            Ok(inputs)
        }
    }

    /// The seed of a tensor with a known name.
    struct NamedTensor<'a>(&'a str);

    impl<'de> DeserializeSeed<'de> for NamedTensor<'_> {
        type Value = TensorData;

        fn deserialize<D: Deserializer<'de>>(
            self,
            deserializer: D,
        ) -> Result<TensorData, D::Error> {
            let tensor = UntypedTensor::deserialize(deserializer)?;
            let tensor = tensor.into_tensor(loss_input_dtype(self.0));
            tensor.map_err(serde::de::Error::custom)
        }
    }

    deserializer.deserialize_map(InputsVisitor)
}

/// The loss inputs with one row per position.
const PER_POSITION: [&str; 5] = [
    "target_tokens",
    "weights",
    "logprobs",
    "advantages",
    "sequence_ratio_mask",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_dtype_follows_from_the_name_or_the_values() {
        use crate::DType::{Float32, Int64};
        let json = r#"{"model_input": {"chunks": []}, "loss_fn_inputs": {
            "weights": {"data": [1, 0]}, "target_tokens": {"data": [2.0, 3]}, "other": {"data": [1, 2], "dtype": null},
            "another": {"data": [1.0, 2]}, "logprobs": {"data": [1], "dtype": "int64"}
        }, "model_input_spans": null}"#;
        let datum: Datum = serde_json::from_str(json).unwrap();
        for (name, dtype) in [
            ("weights", Float32),
            ("target_tokens", Int64),
            ("other", Int64),
            ("another", Float32),
            ("logprobs", Int64),
        ] {
            assert_eq!(datum.loss_fn_inputs[name].dtype(), dtype, "{name}");
        }
        let wrong = r#"{"model_input": {"chunks": []}, "loss_fn_inputs": {"target_tokens": {"data": [2.5]}}}"#;
        assert!(serde_json::from_str::<Datum>(wrong).is_err());
        let plain: TensorData = serde_json::from_str(r#"{"data": [1, 2]}"#).unwrap();
        assert_eq!(plain.dtype(), Int64);
    }

    #[test]
    fn next_token_shifts_by_one() {
        let datum = Datum::next_token(&[1, 2, 3], vec![0.0, 1.0]).unwrap();
        assert_eq!(datum.model_input.tokens().unwrap(), [1, 2]);
        assert_eq!(
            datum.loss_fn_inputs["target_tokens"].as_i64().unwrap(),
            [2, 3]
        );
        assert!(datum.validate().is_ok());
        assert_eq!(
            Datum::next_token(&[1, 2, 3], vec![1.0])
                .unwrap_err()
                .field(),
            "weights"
        );
        assert_eq!(
            Datum::next_token(&[1], vec![]).unwrap_err().field(),
            "tokens"
        );
    }

    #[test]
    fn invalid_loss_inputs_are_named() {
        let datum = Datum::new(vec![1, 2, 3]).with("target_tokens", vec![2i64, 3]);
        assert_eq!(
            datum.validate().unwrap_err().field(),
            "loss_fn_inputs.target_tokens"
        );
        let datum = Datum::new(vec![1])
            .with("target_tokens", vec![2i64])
            .with("weights", vec![f32::NAN]);
        assert_eq!(
            datum.validate().unwrap_err().field(),
            "loss_fn_inputs.weights.data"
        );
        let datum = Datum::new(vec![1]).with("target_tokens", vec![1i64 << 40]);
        assert_eq!(
            datum.validate().unwrap_err().field(),
            "loss_fn_inputs.target_tokens"
        );
    }

    #[test]
    fn byte_estimate_matches_the_official_sdk() {
        let datum = Datum::new(vec![1, 2, 3])
            .with("target_tokens", vec![2i64, 3, 4])
            .with("weights", vec![1.0f32; 3]);
        assert_eq!(datum.estimated_bytes(), 3 * 4 + 3 * 8 + 3 * 4);
    }
}
