//! Loss functions. They are computed from the log-probabilities of a sequence's target tokens.
//!
//! A loss function returns a value and a derivative for each target. The backward pass of the model starts from these derivatives.

mod policy;
mod report;

use std::collections::BTreeMap;

use tinkers_wire::LossFn;

use crate::error::{Error, Result};

pub(crate) use report::{Report, metrics};

/// A loss function with its options.
///
/// In the formulas, `p` is the log-probability of a target token under the model, `q` its log-probability under the sampler, `A`
/// the advantage, and `r = exp(p - q)`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "the engine computes each loss")]
pub enum LossFunction {
    /// The weighted cross-entropy, `-p · weight`, where `p` is the log-probability of a target token.
    CrossEntropy,
    /// The importance sampling loss, `-r · A`, with the probability ratio `r` of model and sampler and the advantage `A`.
    ImportanceSampling,
    /// The PPO loss, `-min(r · A, clip(r) · A)`, with the probability ratio `r` of model and sampler and the advantage `A`.
    Ppo(Clip),
    /// The CISPO loss, `-clip(r) · p · A`, with the log-probability `p`, the probability ratio `r` of model and sampler, and the
    /// advantage `A`. The ratio gets no gradient.
    Cispo(Clip),
    /// The DRO loss, `-(p · A - beta / 2 · (p - q)²)`, with the log-probabilities `p` of the model and `q` of the sampler, and the
    /// advantage `A`.
    Dro {
        /// The weight of the quadratic penalty on the difference from the log-probabilities of the sampler.
        beta: f32,
    },
}

/// The interval to which PPO and CISPO clip the probability ratio of model and sampler.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip {
    /// The lower bound of the probability ratio, named `clip_low_threshold` in the Tinker API.
    pub low: f32,
    /// The upper bound of the probability ratio, named `clip_high_threshold` in the Tinker API.
    pub high: f32,
}

/// The inputs of a loss function besides the log-probabilities of the model.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "the engine reads the inputs of each loss"
)]
pub enum LossInputs {
    /// One weight for each target token, for `cross_entropy`.
    Weights(Vec<f32>),
    /// The log-probability of the sampler and the advantage for each target token, for the policy losses.
    Policy {
        /// The log-probabilities of the target tokens under the sampler that generated them.
        sampler: Vec<f32>,
        /// The advantages of the target tokens.
        advantages: Vec<f32>,
    },
}

/// The losses of the target tokens of a sequence, and the derivatives of these losses with respect to the log-probabilities.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Evaluated {
    pub(crate) losses: Vec<f32>,
    pub(crate) derivatives: Vec<f32>,
}

impl LossFunction {
    /// Parses a loss function from its name and its options. Options that are not set get the documented defaults.
    ///
    /// # Errors
    /// Returns [`Error::Input`] with `loss_fn`, or with the option that is unknown, not finite or inconsistent.
    pub fn parse(name: &str, options: &BTreeMap<String, f64>) -> Result<Self> {
        let known = name.parse::<LossFn>().ok();
        let mut options = Options {
            given: options.clone(),
            defaults: known.and_then(|loss| loss.options()).unwrap_or_default(),
        };
        let loss = match name {
            "cross_entropy" => Self::CrossEntropy,
            "importance_sampling" => Self::ImportanceSampling,
            "ppo" => Self::Ppo(options.clip()?),
            "cispo" => Self::Cispo(options.clip()?),
            "dro" => Self::Dro {
                beta: options.take("beta")?,
            },
            other => {
                let known = "cross_entropy, importance_sampling, ppo, cispo, dro";
                return Err(Error::input(
                    "loss_fn",
                    format!("is {other:?}, expected one of {known}"),
                ));
            }
        };
        match options.given.keys().next() {
            None => Ok(loss),
            Some(key) => Err(Error::input(
                format!("loss_fn_config.{key}"),
                format!("is not an option of {name}"),
            )),
        }
    }

    /// Computes the loss of each target token of a sequence, and its derivative, from the log-probabilities `p` of the target
    /// tokens.
    pub(crate) fn evaluate(&self, p: &[f32], loss_inputs: &LossInputs) -> Evaluated {
        match loss_inputs {
            LossInputs::Weights(weights) => Evaluated {
                losses: p.iter().zip(weights).map(|(p, w)| -p * w).collect(),
                derivatives: weights.iter().map(|w| -w).collect(),
            },
            LossInputs::Policy {
                sampler,
                advantages,
            } => {
                let targets = p.iter().zip(sampler).zip(advantages);
                let (losses, derivatives) = targets
                    .map(|((&p, &q), &advantage)| policy::evaluate(self, p, q, advantage))
                    .unzip();
                Evaluated {
                    losses,
                    derivatives,
                }
            }
        }
    }

    /// Returns whether the loss is a policy loss. Policy losses compare the model with the sampler that generated the tokens.
    #[must_use]
    pub fn is_policy(&self) -> bool {
        !matches!(self, Self::CrossEntropy)
    }

    /// Returns the clipping interval, or `None` if the loss does not clip the probability ratio.
    pub(crate) fn clip(&self) -> Option<Clip> {
        match self {
            Self::Ppo(clip) | Self::Cispo(clip) => Some(*clip),
            _ => None,
        }
    }
}

/// The options of a loss function that have not been read yet.
struct Options {
    given: BTreeMap<String, f64>,
    /// The default values of the options that are not set.
    defaults: &'static [(&'static str, f64)],
}

impl Options {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the engine computes in f32"
    )]
    fn take(&mut self, name: &str) -> Result<f32> {
        let default = self.defaults.iter().find(|(option, _)| *option == name);
        let default = default.map_or(f64::NAN, |(_, value)| *value);
        let value = self.given.remove(name).unwrap_or(default);
        if !value.is_finite() {
            let field = format!("loss_fn_config.{name}");
            return Err(Error::input(
                field,
                format!("is {value}, expected a finite number"),
            ));
        }
        Ok(value as f32)
    }

    fn clip(&mut self) -> Result<Clip> {
        let clip = Clip {
            low: self.take("clip_low_threshold")?,
            high: self.take("clip_high_threshold")?,
        };
        if clip.low > clip.high {
            return Err(Error::input(
                "loss_fn_config.clip_low_threshold",
                format!(
                    "is {}, expected at most clip_high_threshold, {}",
                    clip.low, clip.high
                ),
            ));
        }
        Ok(clip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, options: &[(&str, f64)]) -> Result<LossFunction> {
        let options = options.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
        LossFunction::parse(name, &options)
    }

    #[test]
    fn absent_loss_options_take_the_documented_defaults() {
        let clip = |low, high| Clip { low, high };
        assert_eq!(
            parse("ppo", &[]).unwrap(),
            LossFunction::Ppo(clip(0.8, 1.2))
        );
        assert_eq!(
            parse("cispo", &[]).unwrap(),
            LossFunction::Cispo(clip(0.0, 4.0))
        );
        let half = parse("ppo", &[("clip_low_threshold", 0.5)]).unwrap();
        assert_eq!(half, LossFunction::Ppo(clip(0.5, 1.2)));
    }

    #[test]
    fn error_names_the_unknown_or_invalid_loss_option() {
        for (name, options, wanted) in [
            ("hinge", vec![], "hinge"),
            ("cross_entropy", vec![("beta", 1.0)], "loss_fn_config.beta"),
            ("ppo", vec![("clip", 1.0)], "loss_fn_config.clip"),
            ("dro", vec![("beta", f64::NAN)], "loss_fn_config.beta"),
            (
                "ppo",
                vec![("clip_low_threshold", 3.0)],
                "clip_high_threshold",
            ),
        ] {
            let error = parse(name, &options).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn cross_entropy_multiplies_each_target_token_loss_by_its_weight() {
        let got = LossFunction::CrossEntropy
            .evaluate(&[-1.0, -2.0], &LossInputs::Weights(vec![0.5, 0.0]));
        assert_eq!(got.losses, [0.5, 0.0]);
        assert_eq!(got.derivatives, [-0.5, 0.0]);
    }
}
