//! Loss functions and their options.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::names::display_name;
use crate::nulls::null_is_default;
use crate::{DType, InvalidInput, input};

/// A loss function, named by [`Loss`] in a forward or forward-backward pass. Not every server supports every function.
///
/// The loss of a datum is a sum over the positions of its model input. In the formulas below, position `i` has
///
/// - `p`, the log-probability that the model in training gives to `target_tokens[i]`,
/// - `q`, the log-probability that the sampler gave to the same token, from `logprobs[i]`,
/// - `r = exp(p - q)`, the probability ratio, and
/// - `A`, the advantage in `advantages[i]`.
///
/// Each loss input is a tensor with one element per position; `target_tokens` is int64, all others are float32. All logarithms are
/// natural. The formulas and defaults are from Tinker's public documentation (tinker-docs.thinkingmachines.ai).
///
/// # Prompt positions
/// Loss inputs also need values at the positions that predict prompt tokens. Set `weights` or `advantages` to 0 there, to take these
/// positions out of the loss (except for [`Dro`](Self::Dro)), and set `logprobs` to 0. [`Datum::sampled`](crate::Datum::sampled) does both.
/// Metrics that are means over positions, such as the mean of `r`, still count these positions; with `q = 0` the ratio of a prompt position
/// is below 1 and lowers the mean.
///
/// # Examples
/// ```
/// # use tinkers_wire as tinkers;
/// use tinkers::{Datum, LossFn};
///
/// // The model completed the prompt [1, 2, 3] with the tokens [4, 5], and the completion earned the advantage 0.5.
/// let datum = Datum::sampled(&[1, 2, 3], &[4, 5], &[-0.25, -1.5], 0.5)?;
/// assert_eq!(datum.loss_fn_inputs["target_tokens"].as_i64(), Some(&[2, 3, 4, 5][..]));
/// assert_eq!(datum.loss_fn_inputs["logprobs"].as_f32(), Some(&[0.0, 0.0, -0.25, -1.5][..]));
/// assert_eq!(datum.loss_fn_inputs["advantages"].as_f32(), Some(&[0.0, 0.0, 0.5, 0.5][..]));
///
/// let loss = LossFn::Ppo.with("clip_low_threshold", 0.9).with("clip_high_threshold", 1.1);
/// loss.validate()?;
/// # Ok::<(), tinkers_wire::InvalidInput>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LossFn {
    /// `cross_entropy`, the weighted negative log-likelihood of the targets: `-p · weights[i]`.
    ///
    /// Inputs: `target_tokens` and `weights`. If `weights` is missing, the server of `tinkers serve` uses 1. Both inputs have the shape `[N]`
    /// for `N` positions, or `[N, K]` for `K` weighted targets per position, dense or sparse. Weight 0 takes a prompt position out of the loss.
    /// No options.
    CrossEntropy,
    /// `importance_sampling`, the policy gradient corrected by the probability ratio: `-r · A`.
    ///
    /// Inputs: `target_tokens`, `logprobs`, `advantages`, each `[N]`. At prompt positions: `logprobs` 0, `advantages` 0. No options.
    ImportanceSampling,
    /// `ppo`, the clipped surrogate objective of PPO: `-min(r · A, clip(r, low, high) · A)`.
    ///
    /// Inputs: `target_tokens`, `logprobs`, `advantages`, each `[N]`. At prompt positions: `logprobs` 0, `advantages` 0. Options:
    /// `clip_low_threshold` (0.8) and `clip_high_threshold` (1.2), the bounds `low` and `high` of the ratio.
    Ppo,
    /// `cispo`, the policy gradient with a clipped ratio as constant weight: `-clip(r, low, high) · p · A`. No gradient flows through the ratio.
    ///
    /// Inputs: `target_tokens`, `logprobs`, `advantages`, each `[N]`. At prompt positions: `logprobs` 0, `advantages` 0. Options:
    /// `clip_low_threshold` (0) and `clip_high_threshold` (4), the bounds `low` and `high` of the ratio.
    Cispo,
    /// `dro`, direct reward optimisation, with a quadratic penalty for leaving the sampler's policy: `-(p · A - beta / 2 · (p - q)²)`.
    ///
    /// Inputs: `target_tokens`, `logprobs`, `advantages`, each `[N]`. The penalty remains where `advantages` is 0. Therefore `logprobs` at
    /// prompt positions must be the log-probabilities of the prompt tokens, as `compute_logprobs` of a sampling client returns them; with 0
    /// the loss would train on the prompt. Option: `beta`, the weight of the penalty (the documentation shows 0.05).
    Dro,
    /// `gspo`, PPO with one ratio per sequence in place of `r`. The ratio is `s = exp(mean of (p - q))` over the positions where
    /// `sequence_ratio_mask` is 1. The loss is `-min(s · A, clip(s, low, high) · A)`.
    ///
    /// Inputs: `target_tokens`, `logprobs`, `advantages`, `sequence_ratio_mask`, each `[N]`. At prompt positions all but `target_tokens` are
    /// 0: a mask of 1 there would count the position in the mean. Options: `clip_low_threshold` and `clip_high_threshold`; their defaults are
    /// not documented.
    Gspo,
    /// `stable_reinforce`, a loss function that is in alpha on the hosted service; its formula is not published.
    ///
    /// Inputs: `target_tokens` and `advantages`. The datum also needs provenance spans
    /// ([`Datum::model_input_spans`](crate::Datum::model_input_spans)) that name sampled sequences. Their sampling requests must have set
    /// `record_stability_info`. Option: `kl_coeff`.
    StableReinforce,
    /// `custom`, a loss function that was uploaded to the server. The uploaded function declares its inputs.
    ///
    /// Option: `loss_id`, the id of the uploaded function, a string.
    Custom,
    /// A loss function with a name that this version does not know. The name is sent unchanged, and the loss inputs are not checked.
    Other(String),
}

impl LossFn {
    /// All loss functions that this version of the crate knows by name.
    const KNOWN: [Self; 8] = [
        Self::CrossEntropy,
        Self::ImportanceSampling,
        Self::Ppo,
        Self::Cispo,
        Self::Dro,
        Self::Gspo,
        Self::StableReinforce,
        Self::Custom,
    ];

    /// Returns the name used in requests, such as `cross_entropy`.
    pub fn name(&self) -> &str {
        match self {
            Self::CrossEntropy => "cross_entropy",
            Self::ImportanceSampling => "importance_sampling",
            Self::Ppo => "ppo",
            Self::Cispo => "cispo",
            Self::Dro => "dro",
            Self::Gspo => "gspo",
            Self::StableReinforce => "stable_reinforce",
            Self::Custom => "custom",
            Self::Other(name) => name,
        }
    }

    /// Returns the names of the loss inputs that a datum must have for this loss function. Returns an empty list for a function whose inputs
    /// this version does not know.
    pub fn required_inputs(&self) -> &'static [&'static str] {
        match self {
            Self::CrossEntropy => &["target_tokens"],
            Self::ImportanceSampling | Self::Ppo | Self::Cispo | Self::Dro => {
                &["target_tokens", "logprobs", "advantages"]
            }
            Self::Gspo => &[
                "target_tokens",
                "logprobs",
                "advantages",
                "sequence_ratio_mask",
            ],
            Self::StableReinforce | Self::Custom | Self::Other(_) => &[],
        }
    }

    /// Returns the names of all inputs of this loss function, required and optional, or `None` if this version does not know them.
    pub fn inputs(&self) -> Option<&'static [&'static str]> {
        match self {
            Self::CrossEntropy => Some(&["target_tokens", "weights"]),
            Self::ImportanceSampling | Self::Ppo | Self::Cispo | Self::Dro | Self::Gspo => {
                Some(self.required_inputs())
            }
            Self::StableReinforce | Self::Custom | Self::Other(_) => None,
        }
    }

    /// Returns the names of the options of this loss function with their default values, or `None` if this version does not know the defaults.
    pub fn options(&self) -> Option<&'static [(&'static str, f64)]> {
        match self {
            Self::CrossEntropy | Self::ImportanceSampling => Some(&[]),
            Self::Ppo => Some(&[("clip_low_threshold", 0.8), ("clip_high_threshold", 1.2)]),
            Self::Cispo => Some(&[("clip_low_threshold", 0.0), ("clip_high_threshold", 4.0)]),
            Self::Dro => Some(&[("beta", 0.05)]),
            Self::Gspo | Self::StableReinforce | Self::Custom | Self::Other(_) => None,
        }
    }

    /// Returns the loss function with this name, or [`LossFn::Other`] if the name is not known.
    pub(crate) fn from_name(name: String) -> Self {
        let known = Self::KNOWN.into_iter().find(|known| known.name() == name);
        known.unwrap_or(Self::Other(name))
    }

    /// Creates a [`Loss`] of this function with one option set.
    pub fn with(self, name: impl Into<String>, value: impl Into<LossConfigValue>) -> Loss {
        Loss::from(self).with(name, value)
    }
}

display_name!(LossFn);

impl FromStr for LossFn {
    type Err = InvalidInput;

    /// Parses the name of a known loss function.
    ///
    /// # Errors
    /// The error names the field `loss_fn` and lists the known names. Use [`LossFn::Other`] for a function that only the server knows.
    fn from_str(name: &str) -> Result<Self, InvalidInput> {
        Self::KNOWN
            .into_iter()
            .find(|known| known.name() == name)
            .ok_or_else(|| {
                let names: Vec<&str> = Self::KNOWN.iter().map(Self::name).collect();
                InvalidInput::new(
                    "loss_fn",
                    format_args!("one of {}, got {name:?}", names.join(", ")),
                )
            })
    }
}

impl Serialize for LossFn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for LossFn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from_name)
    }
}

/// Returns the dtype that a loss input must have, or `None` for an input that the protocol does not define.
pub fn loss_input_dtype(input: &str) -> Option<DType> {
    match input {
        "target_tokens" => Some(DType::Int64),
        "weights"
        | "logprobs"
        | "advantages"
        | "sequence_ratio_mask"
        | "clip_low_threshold"
        | "clip_high_threshold" => Some(DType::Float32),
        _ => None,
    }
}

/// The value of an option of a loss function. A number must be finite, since JSON cannot encode NaN and the infinities.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
#[expect(clippy::exhaustive_enums, reason = "a number or string by protocol")]
pub enum LossConfigValue {
    /// The value of a numeric option.
    Number(f64),
    /// The value of a string option. The older JSON requests have no form for string options, so servers that read only these requests reject
    /// such an option.
    Text(String),
}

impl From<f64> for LossConfigValue {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for LossConfigValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for LossConfigValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// A loss function with its options.
///
/// A [`LossFn`] converts to a loss without options:
///
/// ```
/// # use tinkers_wire as tinkers;
/// use tinkers::{Loss, LossFn};
///
/// let loss: Loss = LossFn::CrossEntropy.into();
/// assert!(loss.config.is_empty());
/// let loss = LossFn::Dro.with("beta", 0.1);
/// assert_eq!(loss.config["beta"], 0.1.into());
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Loss {
    /// The loss function.
    #[serde(rename = "loss_fn")]
    pub name: LossFn,
    /// The options by name. For missing options the server uses its defaults.
    #[serde(
        rename = "loss_fn_config",
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub config: BTreeMap<String, LossConfigValue>,
}

impl Loss {
    /// Creates a loss that uses this function without options.
    pub fn new(name: LossFn) -> Self {
        Self {
            name,
            config: BTreeMap::new(),
        }
    }

    /// Sets an option of the loss function, such as `beta`.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<LossConfigValue>) -> Self {
        self.config.insert(name.into(), value.into());
        self
    }

    /// Checks that the name of the loss function is not empty and that numeric options are finite. Whether the function has these options is
    /// checked by the server.
    ///
    /// # Errors
    /// The error names the field `loss_fn` or `loss_fn_config.<option>`.
    pub fn validate(&self) -> Result<(), InvalidInput> {
        if self.name.name().is_empty() {
            return Err(InvalidInput::new("loss_fn", "a non-empty name"));
        }
        for (name, value) in &self.config {
            if let LossConfigValue::Number(number) = value {
                input::check_finite(&format!("loss_fn_config.{name}"), *number)?;
            }
        }
        Ok(())
    }
}

impl From<LossFn> for Loss {
    /// Creates a loss that uses this function without options.
    fn from(name: LossFn) -> Self {
        Self::new(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_for_an_unknown_loss_lists_the_known_losses() {
        for known in LossFn::KNOWN {
            assert_eq!(known.name().parse::<LossFn>().unwrap(), known);
        }
        let error = "cross_entrpy".parse::<LossFn>().unwrap_err();
        assert_eq!(error.field(), "loss_fn");
        assert!(error.to_string().contains("cross_entropy"), "{error}");
    }

    #[test]
    fn loss_option_that_is_not_finite_is_rejected() {
        assert!(
            LossFn::Ppo
                .with("clip_low_threshold", 0.8)
                .validate()
                .is_ok()
        );
        let error = LossFn::Dro.with("beta", f64::NAN).validate().unwrap_err();
        assert_eq!(error.field(), "loss_fn_config.beta");
    }

    #[test]
    fn loss_function_with_options_round_trips_through_json() {
        for loss in [
            LossFn::CrossEntropy.into(),
            LossFn::Ppo.with("clip_low_threshold", 0.8),
            LossFn::Custom.with("loss_id", String::from("l-1")),
            LossFn::Other("my_loss".to_owned()).with("x", 1.0),
        ] {
            let json = serde_json::to_string(&loss).unwrap();
            assert_eq!(serde_json::from_str::<Loss>(&json).unwrap(), loss, "{json}");
        }
        let json = serde_json::to_value(LossFn::Ppo.with("clip_low_threshold", 0.8)).unwrap();
        let expected = serde_json::json!({ "loss_fn": "ppo", "loss_fn_config": { "clip_low_threshold": 0.8 } });
        assert_eq!(json, expected);
    }
}
