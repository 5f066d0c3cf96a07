//! The metrics of a forward or backward pass. Their names contain the reduction (sum, mean, max), so that clients can merge the
//! metrics of the parts of a batch.

use std::collections::BTreeMap;

use super::policy::ratio;
use super::{Evaluated, LossFunction, LossInputs};

/// The contribution of one sequence to the metrics of a pass.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) losses: Vec<f32>,
    loss: f64,
    weight: f64,
    policy: Option<Policy>,
}

#[derive(Clone, Copy, Debug)]
struct Policy {
    mean_ratio: f64,
    max_ratio: f64,
    clipped: f64,
    kl: f64,
}

impl Report {
    /// Computes the contribution of one sequence to the metrics. `p` contains the log-probabilities of the sequence.
    #[expect(
        clippy::cast_precision_loss,
        reason = "sequences are far below 2^53 tokens"
    )]
    pub(crate) fn new(
        loss: &LossFunction,
        loss_inputs: &LossInputs,
        p: &[f32],
        evaluated: &Evaluated,
    ) -> Self {
        let sum = |values: &[f32]| values.iter().map(|&x| f64::from(x)).sum::<f64>();
        let count = p.len().max(1) as f64;
        let (weight, policy) = match loss_inputs {
            LossInputs::Weights(weights) => (sum(weights), None),
            LossInputs::Policy { sampler, .. } => {
                let ratios: Vec<f32> = p.iter().zip(sampler).map(|(&p, &q)| ratio(p, q)).collect();
                let outside = |r: f32| loss.clip().is_some_and(|c| r < c.low || r > c.high);
                let policy = Policy {
                    mean_ratio: sum(&ratios) / count,
                    max_ratio: f64::from(ratios.iter().copied().fold(0.0, f32::max)),
                    clipped: ratios.iter().filter(|r| outside(**r)).count() as f64 / count,
                    kl: (sum(sampler) - sum(p)) / count,
                };
                (p.len() as f64, Some(policy))
            }
        };
        Self {
            loss: sum(&evaluated.losses),
            losses: evaluated.losses.clone(),
            weight,
            policy,
        }
    }
}

/// Computes the metrics of a forward or backward pass. Means are taken over sequences, as clients assume when they merge the
/// metrics of the parts of a batch.
///
/// The metrics are `loss:sum` and `weights:sum`. For policy losses, `weights:sum` is the number of target tokens. Policy losses
/// also have `ratio:mean`, `ratio:max`, `kl_sampler_learner:mean` (the mean of the log-probability under the sampler minus that
/// under the learner) and, if the loss clips the ratio, `clip_fraction:mean`.
#[expect(
    clippy::cast_precision_loss,
    reason = "batches are far below 2^53 sequences"
)]
pub(crate) fn metrics<'a>(
    loss: &LossFunction,
    reports: impl Iterator<Item = &'a Report>,
) -> BTreeMap<String, f64> {
    let reports: Vec<&Report> = reports.collect();
    let mut metrics = BTreeMap::new();
    let sum = |of: fn(&Report) -> f64| reports.iter().map(|r| of(r)).sum::<f64>();
    metrics.insert("loss:sum".to_owned(), sum(|r| r.loss));
    metrics.insert("weights:sum".to_owned(), sum(|r| r.weight));
    let policies: Vec<Policy> = reports.iter().filter_map(|r| r.policy).collect();
    if policies.is_empty() {
        return metrics;
    }
    let mean =
        |of: fn(&Policy) -> f64| policies.iter().map(of).sum::<f64>() / policies.len() as f64;
    metrics.insert("ratio:mean".to_owned(), mean(|p| p.mean_ratio));
    let highest = policies.iter().map(|p| p.max_ratio).fold(0.0, f64::max);
    metrics.insert("ratio:max".to_owned(), highest);
    metrics.insert("kl_sampler_learner:mean".to_owned(), mean(|p| p.kl));
    if loss.clip().is_some() {
        metrics.insert("clip_fraction:mean".to_owned(), mean(|p| p.clipped));
    }
    metrics
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::Clip;

    #[test]
    fn loss_metrics_are_means_over_sequences_or_sums_over_targets() {
        let loss = LossFunction::Ppo(Clip {
            low: 0.8,
            high: 1.2,
        });
        let report = |p: &[f32], q: &[f32]| {
            let loss_inputs = LossInputs::Policy {
                sampler: q.to_vec(),
                advantages: vec![1.0; p.len()],
            };
            Report::new(&loss, &loss_inputs, p, &loss.evaluate(p, &loss_inputs))
        };
        let a = report(&[-1.0, -1.0], &[-1.0, -1.0]);
        let b = report(&[-1.0], &[-1.0 - 2f32.ln()]);
        let got = metrics(&loss, [a, b].iter());
        let near = |name: &str, want: f64| {
            assert!((got[name] - want).abs() < 1e-6, "{name}: {}", got[name]);
        };
        near("loss:sum", -2.0 - 1.2);
        near("weights:sum", 3.0);
        near("ratio:mean", 1.5);
        near("ratio:max", 2.0);
        near("clip_fraction:mean", 0.5);
        near("kl_sampler_learner:mean", -f64::from(2f32.ln()) / 2.0);
    }

    #[test]
    fn cross_entropy_metrics_are_loss_and_weights() {
        let loss_inputs = LossInputs::Weights(vec![1.0, 0.5]);
        let p = [-2.0, -4.0];
        let evaluated = LossFunction::CrossEntropy.evaluate(&p, &loss_inputs);
        let report = Report::new(&LossFunction::CrossEntropy, &loss_inputs, &p, &evaluated);
        let got = metrics(&LossFunction::CrossEntropy, std::iter::once(&report));
        assert_eq!(
            got.into_iter().collect::<Vec<_>>(),
            [
                ("loss:sum".to_owned(), 4.0),
                ("weights:sum".to_owned(), 1.5),
            ]
        );
    }
}
