//! Data: the examples of a training batch.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeSeed, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::names::display_name;
use crate::nulls::null_is_default;
use crate::tensor::UntypedTensor;
use crate::{InvalidInput, ModelInput, TensorData, loss_input_dtype};

/// An example of a training batch: the model input and the inputs of the loss function.
///
/// Position `i` of `model_input` predicts `target_tokens[i]`, so inputs and targets are the same tokens shifted by one. The constructors
/// [`Datum::next_token`] and [`Datum::sampled`] do this shift. Which inputs each loss needs is documented at [`LossFn`](crate::LossFn).
/// Cheap to clone: arrays are shared.
///
/// # Examples
/// Supervised: learn to continue the prompt `[1, 2, 3]` with `[4, 5]`. The weights apply to the predictions of tokens 2 to 5.
/// ```
/// # use tinkers_wire as tinkers;
/// use tinkers::Datum;
///
/// let datum = Datum::next_token(&[1, 2, 3, 4, 5], [0.0, 0.0, 1.0, 1.0])?;
/// // The same, by hand:
/// let by_hand = Datum::new([1, 2, 3, 4])
///     .target_tokens([2, 3, 4, 5])
///     .weights([0.0, 0.0, 1.0, 1.0]);
/// assert_eq!(datum, by_hand);
/// datum.validate()?;
/// # Ok::<(), tinkers_wire::InvalidInput>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Datum {
    /// The input of the model.
    pub model_input: ModelInput,
    /// The inputs of the loss function by name, such as `target_tokens`. Each input has one element, or one row, per position of
    /// `model_input`.
    #[serde(deserialize_with = "loss_inputs")]
    pub loss_fn_inputs: BTreeMap<String, TensorData>,
    /// The sampled sequences that the tokens of `model_input` came from, as consecutive spans that cover all tokens; empty if not recorded.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<ProvenanceSpan>>"))]
    pub model_input_spans: Vec<ProvenanceSpan>,
    /// The sampled sequences that the target tokens came from, as consecutive spans that cover all target tokens; empty if not recorded.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<ProvenanceSpan>>"))]
    pub loss_fn_input_spans: Vec<ProvenanceSpan>,
}

/// A span of consecutive training tokens that came from a sampling request, either from its prompt or from a sampled sequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ProvenanceSpan {
    /// Whether the tokens of the span were part of the prompt or were sampled.
    pub kind: SpanKind,
    /// The id of the sampled sequence that the span belongs to.
    pub sequence_id: String,
    /// The index of the first token of the span, counted in the prompt or in the sampled tokens.
    pub offset: u64,
    /// The number of tokens in the span.
    pub length: u64,
}

impl ProvenanceSpan {
    /// Creates a span of `length` tokens that begins at the token `offset` of the prompt or of the sampled tokens of a sequence.
    pub fn new(kind: SpanKind, sequence_id: impl Into<String>, offset: u64, length: u64) -> Self {
        Self {
            kind,
            sequence_id: sequence_id.into(),
            offset,
            length,
        }
    }
}

/// The part of a sampling request that the tokens of a [`ProvenanceSpan`] came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SpanKind {
    /// The tokens of the span were part of the prompt of the sampling request.
    Prompt,
    /// The tokens of the span were sampled by the model.
    Sampled,
}

/// Clones the datum, so that calls accept borrowed data. The clone shares the arrays of the datum.
impl From<&Self> for Datum {
    fn from(datum: &Self) -> Self {
        datum.clone()
    }
}

impl SpanKind {
    /// Returns the name used in JSON, `prompt` or `sampled`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Sampled => "sampled",
        }
    }
}

display_name!(SpanKind);

impl Datum {
    /// Creates a datum without inputs of the loss function. Add these with methods such as [`Datum::target_tokens`], or with [`Datum::with`].
    pub fn new(model_input: impl Into<ModelInput>) -> Self {
        Self {
            model_input: model_input.into(),
            loss_fn_inputs: BTreeMap::new(),
            model_input_spans: Vec::new(),
            loss_fn_input_spans: Vec::new(),
        }
    }

    /// Creates a datum for next-token prediction with [`LossFn::CrossEntropy`](crate::LossFn::CrossEntropy). The model input is `tokens`
    /// without the last token, the targets are `tokens` without the first, and `weights[i]` is the weight of predicting `tokens[i + 1]`.
    ///
    /// # Errors
    /// The error names the field `tokens` if there are fewer than two tokens, and `weights` if it does not have one element fewer than
    /// `tokens`.
    pub fn next_token(
        tokens: &[u32],
        weights: impl Into<Arc<[f32]>>,
    ) -> Result<Self, InvalidInput> {
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
            .target_tokens(&tokens[1..])
            .weights(weights))
    }

    /// Creates a datum for a policy loss, such as [`LossFn::ImportanceSampling`](crate::LossFn::ImportanceSampling), from the tokens that were
    /// sampled for a prompt, their log-probabilities, and the advantage of the sample.
    ///
    /// The model input is `prompt` followed by `tokens`, without the last token. `logprobs` and `advantages` are 0 at the positions that
    /// predict prompt tokens. To give each token its own advantage, replace the input with [`Datum::advantages`].
    ///
    /// # Errors
    /// The error names the field `prompt` or `tokens` if that list is empty, and `logprobs` if it does not have one element per sampled
    /// token.
    ///
    /// ```
    /// # use tinkers_wire as tinkers;
    /// use tinkers::Datum;
    ///
    /// let datum = Datum::sampled(&[1, 2], &[3, 4], &[-0.5, -0.75], 2.0)?;
    /// let by_hand = Datum::new([1, 2, 3])
    ///     .target_tokens([2, 3, 4])
    ///     .logprobs([0.0, -0.5, -0.75])
    ///     .advantages([0.0, 2.0, 2.0]);
    /// assert_eq!(datum, by_hand);
    /// # Ok::<(), tinkers_wire::InvalidInput>(())
    /// ```
    pub fn sampled(
        prompt: &[u32],
        tokens: &[u32],
        logprobs: &[f32],
        advantage: f32,
    ) -> Result<Self, InvalidInput> {
        for (field, list) in [("prompt", prompt), ("tokens", tokens)] {
            if list.is_empty() {
                return Err(InvalidInput::new(field, "at least one token, got none"));
            }
        }
        if logprobs.len() != tokens.len() {
            let (expected, got) = (tokens.len(), logprobs.len());
            let expected = format!("{expected} numbers, one per sampled token, got {got}");
            return Err(InvalidInput::new("logprobs", expected));
        }
        let all = [prompt, tokens].concat();
        // The last prompt token predicts the first sampled one.
        let zeros = vec![0.0; prompt.len() - 1];
        let advantages = vec![advantage; tokens.len()];
        Ok(Self::new(&all[..all.len() - 1])
            .target_tokens(&all[1..])
            .logprobs([&zeros, logprobs].concat())
            .advantages([zeros, advantages].concat()))
    }

    /// Sets the input of the loss function with this name. Vectors, slices and arrays of `f32`, `i64`, `i32` and `u32` convert to a 1-D tensor.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, tensor: impl Into<TensorData>) -> Self {
        self.loss_fn_inputs.insert(name.into(), tensor.into());
        self
    }

    /// Sets the loss input `target_tokens`: the token that each position predicts.
    #[must_use]
    pub fn target_tokens(self, tokens: impl AsRef<[u32]>) -> Self {
        self.with("target_tokens", tokens.as_ref())
    }

    /// Sets the loss input `weights`: the weight of each position in the cross-entropy; 0 takes the position out of the loss.
    #[must_use]
    pub fn weights(self, weights: impl Into<Arc<[f32]>>) -> Self {
        self.with("weights", TensorData::f32(weights))
    }

    /// Sets the loss input `logprobs`: the log-probability that the sampler gave to the target of each position, 0 at prompt positions.
    #[must_use]
    pub fn logprobs(self, logprobs: impl Into<Arc<[f32]>>) -> Self {
        self.with("logprobs", TensorData::f32(logprobs))
    }

    /// Sets the loss input `advantages`: the advantage of each position, 0 at prompt positions.
    #[must_use]
    pub fn advantages(self, advantages: impl Into<Arc<[f32]>>) -> Self {
        self.with("advantages", TensorData::f32(advantages))
    }

    /// Sets the loss input `sequence_ratio_mask` of [`LossFn::Gspo`](crate::LossFn::Gspo): 1 at the sampled positions, 0 at prompt positions.
    /// The probability ratio of the sequence is computed from the positions with 1.
    #[must_use]
    pub fn sequence_ratio_mask(self, mask: impl Into<Arc<[f32]>>) -> Self {
        self.with("sequence_ratio_mask", TensorData::f32(mask))
    }

    /// Estimates the size of the datum in a training request in bytes, before compression, with the formula of the official SDK.
    pub fn estimated_bytes(&self) -> u64 {
        self.model_input.training_bytes()
            + self
                .loss_fn_inputs
                .values()
                .map(TensorData::estimated_bytes)
                .sum::<u64>()
    }

    /// Checks that the model input and all tensors are valid, that known loss inputs have one row per position, and that target tokens are int64
    /// ids. Does not check whether all inputs that a loss function needs are present.
    ///
    /// # Errors
    /// The error names the invalid field, such as `loss_fn_inputs.target_tokens`.
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

/// Deserialises the inputs of the loss function, a map from names to tensors. A tensor without a dtype gets the dtype that the protocol defines
/// for the name.
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

    /// A deserialiser for the tensor of the loss function input with this name. The name determines the dtype if the JSON has none.
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

/// The names of the loss function inputs that must have one row per position of the model input.
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
    fn missing_tensor_dtype_is_derived_from_input_name_or_values() {
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
    fn next_token_targets_are_shifted_by_one() {
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
    fn sampled_datum_rejects_lists_of_different_length() {
        let field = |prompt: &[u32], tokens: &[u32], logprobs: &[f32]| {
            let datum = Datum::sampled(prompt, tokens, logprobs, 1.0);
            datum.unwrap_err().field().to_owned()
        };
        assert_eq!(field(&[], &[3], &[-1.0]), "prompt");
        assert_eq!(field(&[1], &[], &[]), "tokens");
        assert_eq!(field(&[1], &[3], &[]), "logprobs");
        let shortest = Datum::sampled(&[1], &[3], &[-1.0], 1.0).unwrap();
        assert_eq!(shortest.model_input.tokens().unwrap(), [1]);
        assert!(shortest.validate().is_ok());
    }

    #[test]
    fn sequence_ratio_mask_is_encoded_as_a_float_input() {
        let datum = Datum::new([1, 2]).sequence_ratio_mask([0.0, 1.0]);
        let mask = &datum.loss_fn_inputs["sequence_ratio_mask"];
        assert_eq!(mask.as_f32(), Some(&[0.0, 1.0][..]));
    }

    #[test]
    fn error_for_an_invalid_loss_input_names_the_input() {
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
    fn byte_estimate_of_a_datum_matches_the_official_sdk() {
        let datum = Datum::new(vec![1, 2, 3])
            .with("target_tokens", vec![2i64, 3, 4])
            .with("weights", vec![1.0f32; 3]);
        assert_eq!(datum.estimated_bytes(), 3 * 4 + 3 * 8 + 3 * 4);
    }
}
