//! Loss functions and their options.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{DType, InvalidInput, input};

/// A loss function by name. The loss is summed over positions. Not every server supports every function.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LossFn {
    /// Weighted cross-entropy: `-logprob · weight`.
    CrossEntropy,
    /// Importance sampling: `-exp(logprob - sampled_logprob) · advantage`.
    ImportanceSampling,
    /// PPO's clipped surrogate, with the options `clip_low_threshold` and `clip_high_threshold`.
    Ppo,
    /// CISPO: clipped importance weights without a gradient through them.
    Cispo,
    /// Direct reward optimisation, with the option `beta`.
    Dro,
    /// GSPO: PPO with a sequence-level probability ratio.
    Gspo,
    /// `stable_reinforce`, in alpha on the hosted service.
    StableReinforce,
    /// An uploaded loss function, with the option `loss_id`.
    Custom,
    /// A name that this version does not know, sent unchanged.
    Other(String),
}

impl LossFn {
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

    /// Returns the name used on the wire.
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

    /// Returns the loss inputs that must be set.
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

    /// Returns all loss inputs, required and optional; `None` if this version does not know them.
    pub fn inputs(&self) -> Option<&'static [&'static str]> {
        match self {
            Self::CrossEntropy => Some(&["target_tokens", "weights"]),
            Self::ImportanceSampling | Self::Ppo | Self::Cispo | Self::Dro | Self::Gspo => {
                Some(self.required_inputs())
            }
            Self::StableReinforce | Self::Custom | Self::Other(_) => None,
        }
    }

    /// Returns the options and their default values; `None` if this version does not know them.
    pub fn options(&self) -> Option<&'static [(&'static str, f64)]> {
        match self {
            Self::CrossEntropy | Self::ImportanceSampling => Some(&[]),
            Self::Ppo => Some(&[("clip_low_threshold", 0.8), ("clip_high_threshold", 1.2)]),
            Self::Cispo => Some(&[("clip_low_threshold", 0.0), ("clip_high_threshold", 4.0)]),
            Self::Dro => Some(&[("beta", 0.05)]),
            Self::Gspo | Self::StableReinforce | Self::Custom | Self::Other(_) => None,
        }
    }

    /// Creates a loss with an option set.
    pub fn with(self, name: impl Into<String>, value: impl Into<LossConfigValue>) -> Loss {
        Loss::from(self).with(name, value)
    }
}

impl fmt::Display for LossFn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for LossFn {
    type Err = InvalidInput;

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

/// Returns the dtype of a loss input, if the protocol defines it.
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

/// The value of a loss option.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum LossConfigValue {
    /// A number.
    Number(f64),
    /// A string; protobuf only.
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

/// A loss function with its options.
#[derive(Debug, Clone, PartialEq)]
pub struct Loss {
    /// The loss function.
    pub name: LossFn,
    /// The options; the server chooses those that are not set.
    pub config: BTreeMap<String, LossConfigValue>,
}

impl Loss {
    /// Sets an option.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<LossConfigValue>) -> Self {
        self.config.insert(name.into(), value.into());
        self
    }

    /// Checks that the name is not empty and that options are finite.
    ///
    /// # Errors
    /// Names the field `loss_fn` or `loss_fn_config.<option>`.
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
    fn from(name: LossFn) -> Self {
        Self {
            name,
            config: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_name_is_rejected_with_the_known_ones() {
        for known in LossFn::KNOWN {
            assert_eq!(known.name().parse::<LossFn>().unwrap(), known);
        }
        let error = "cross_entrpy".parse::<LossFn>().unwrap_err();
        assert_eq!(error.field(), "loss_fn");
        assert!(error.to_string().contains("cross_entropy"), "{error}");
    }

    #[test]
    fn options_must_be_finite() {
        assert!(
            LossFn::Ppo
                .with("clip_low_threshold", 0.8)
                .validate()
                .is_ok()
        );
        let error = LossFn::Dro.with("beta", f64::NAN).validate().unwrap_err();
        assert_eq!(error.field(), "loss_fn_config.beta");
    }
}
