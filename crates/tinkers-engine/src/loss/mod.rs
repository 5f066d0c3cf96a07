//! The losses: functions of the log-probabilities of one sequence's targets.
//!
//! None needs more of the model than these numbers, so each is plain arithmetic over slices: the loss of each position,
//! and its slope there, which is all that the way back through the model starts from.

mod policy;
mod report;

use std::collections::BTreeMap;

use tinkers_wire::LossFn;

use crate::error::{Error, Result};

pub(crate) use report::{Report, metrics};

/// A loss with its options.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// `-p · weight`
    CrossEntropy,
    /// `-exp(p - q) · A`
    ImportanceSampling,
    /// `-min(r · A, clip(r) · A)` with `r = exp(p - q)`
    Ppo(Clip),
    /// `-clip(r) · p · A`, the ratio held constant
    Cispo(Clip),
    /// `-(p · A - beta / 2 · (p - q)²)`
    Dro {
        /// How strongly the learner is held to the sampler.
        beta: f32,
    },
}

/// The interval that a ratio is clipped to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip {
    /// `clip_low_threshold`
    pub low: f32,
    /// `clip_high_threshold`
    pub high: f32,
}

/// What a loss knows of a sequence beside the log-probabilities.
#[derive(Clone, Debug, PartialEq)]
pub enum Terms {
    /// For `cross_entropy`: one weight for each target.
    Weights(Vec<f32>),
    /// For the policy losses: for each target the sampler's log-probability and the advantage.
    Policy {
        /// The sampler's log-probabilities.
        sampler: Vec<f32>,
        /// The advantages.
        advantages: Vec<f32>,
    },
}

/// The losses of a sequence's positions, and their slopes over the log-probabilities.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Evaluated {
    pub(crate) losses: Vec<f32>,
    pub(crate) slopes: Vec<f32>,
}

impl Loss {
    /// Parses a loss by name with its options; an option that is absent takes the documented default.
    ///
    /// # Errors
    /// [`Error::Input`] naming `loss_fn` or the option that is unknown, not finite or out of order.
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
                let known = "cross_entropy, importance_sampling, ppo, cispo and dro";
                return Err(Error::input(
                    "loss_fn",
                    format!("{other:?}; this engine has {known}"),
                ));
            }
        };
        match options.given.keys().next() {
            None => Ok(loss),
            Some(key) => Err(Error::input(
                format!("loss_fn_config.{key}"),
                format!("is no option of {name}"),
            )),
        }
    }

    /// Evaluates the loss at the log-probabilities `p`.
    pub(crate) fn evaluate(&self, p: &[f32], terms: &Terms) -> Evaluated {
        match terms {
            Terms::Weights(weights) => Evaluated {
                losses: p.iter().zip(weights).map(|(p, w)| -p * w).collect(),
                slopes: weights.iter().map(|w| -w).collect(),
            },
            Terms::Policy {
                sampler,
                advantages,
            } => {
                let places = p.iter().zip(sampler).zip(advantages);
                let (losses, slopes) = places
                    .map(|((&p, &q), &advantage)| policy::place(self, p, q, advantage))
                    .unzip();
                Evaluated { losses, slopes }
            }
        }
    }

    /// Whether the loss weighs the targets or compares them with a sampler.
    #[must_use]
    pub fn is_policy(&self) -> bool {
        !matches!(self, Self::CrossEntropy)
    }

    /// The interval of the ratio, for losses that clip it.
    pub(crate) fn clip(&self) -> Option<Clip> {
        match self {
            Self::Ppo(clip) | Self::Cispo(clip) => Some(*clip),
            _ => None,
        }
    }
}

/// Options that were given and not yet used.
struct Options {
    given: BTreeMap<String, f64>,
    /// What an option is that is not given.
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
                format!("is {}, above clip_high_threshold, {}", clip.low, clip.high),
            ));
        }
        Ok(clip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, options: &[(&str, f64)]) -> Result<Loss> {
        let options = options.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
        Loss::parse(name, &options)
    }

    #[test]
    fn absent_options_take_the_documented_defaults() {
        let clip = |low, high| Clip { low, high };
        assert_eq!(parse("ppo", &[]).unwrap(), Loss::Ppo(clip(0.8, 1.2)));
        assert_eq!(parse("cispo", &[]).unwrap(), Loss::Cispo(clip(0.0, 4.0)));
        let half = parse("ppo", &[("clip_low_threshold", 0.5)]).unwrap();
        assert_eq!(half, Loss::Ppo(clip(0.5, 1.2)));
    }

    #[test]
    fn what_is_unknown_is_refused_by_name() {
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
    fn cross_entropy_weighs_each_target() {
        let got = Loss::CrossEntropy.evaluate(&[-1.0, -2.0], &Terms::Weights(vec![0.5, 0.0]));
        assert_eq!(got.losses, [0.5, 0.0]);
        assert_eq!(got.slopes, [-0.5, 0.0]);
    }
}
