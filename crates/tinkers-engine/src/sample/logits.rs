//! Sampling of one token from logits.

use super::TopK;
use crate::ops::math;
use crate::rng::Rng;

/// The parameters of token sampling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingOptions {
    /// The number by which the logits are divided. With 0, the most likely token is selected.
    pub temperature: f32,
    /// The number of most likely tokens from which to sample. `None` to sample from all tokens.
    pub top_k: Option<usize>,
    /// The cumulative probability of the most likely tokens from which to sample. 1 to sample from all tokens.
    pub top_p: f32,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
        }
    }
}

impl SamplingOptions {
    /// Samples a token. Tokens with equal logits are ordered by token id, so that a seed always gives the same result.
    pub(crate) fn sample(&self, logits: &[f32], rng: &mut Rng) -> u32 {
        if self.temperature <= 0.0 || self.top_k == Some(1) {
            return best(logits);
        }
        let top = math::max(logits);
        let weight = |logit: f32| f64::from((logit - top) / self.temperature).exp();
        if self.top_k.is_none() && self.top_p >= 1.0 {
            let weights: Vec<f64> = logits.iter().map(|&x| weight(x)).collect();
            return id(draw(&weights, rng));
        }
        let mut order = ranked(logits);
        order.truncate(self.top_k.unwrap_or(order.len()).max(1));
        let mut weights: Vec<f64> = order.iter().map(|&i| weight(logits[i as usize])).collect();
        let total: f64 = weights.iter().sum();
        let mut reached = 0.0;
        let cutoff = weights.iter().position(|w| {
            reached += w / total;
            reached >= f64::from(self.top_p)
        });
        weights.truncate(cutoff.map_or(weights.len(), |last| last + 1));
        order[draw(&weights, rng)]
    }
}

/// Returns the `count` most likely tokens with their log-probabilities. `total` is the logarithm of the sum of the exponentials of
/// `logits`.
pub(super) fn most_likely(logits: &[f32], count: usize, total: f32) -> TopK {
    let mut order: Vec<u32> = (0..logits.len()).map(id).collect();
    let count = count.min(order.len());
    if count == 0 {
        return Vec::new();
    }
    let by_rank = |a: &u32, b: &u32| rank(logits, *a, *b);
    order.select_nth_unstable_by(count - 1, by_rank);
    order.truncate(count);
    order.sort_unstable_by(by_rank);
    order
        .into_iter()
        .map(|token| (token, logits[token as usize] - total))
        .collect()
}

fn best(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (index, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = index;
        }
    }
    id(best)
}

fn ranked(logits: &[f32]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..logits.len()).map(id).collect();
    order.sort_unstable_by(|a, b| rank(logits, *a, *b));
    order
}

fn rank(logits: &[f32], a: u32, b: u32) -> std::cmp::Ordering {
    logits[b as usize]
        .total_cmp(&logits[a as usize])
        .then(a.cmp(&b))
}

fn draw(weights: &[f64], rng: &mut Rng) -> usize {
    let mut left = rng.unit_f64() * weights.iter().sum::<f64>();
    for (index, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0.0 {
            return index;
        }
    }
    // Rounding may leave a remainder, which goes to the last token of nonzero weight.
    weights.iter().rposition(|w| *w > 0.0).unwrap_or(0)
}

fn id(index: usize) -> u32 {
    u32::try_from(index).expect("token ids fit 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 2.0, 1.0, 2.0, -50.0];

    fn counts(sampling: SamplingOptions) -> [usize; 5] {
        let mut rng = Rng::new(4);
        let mut counts = [0; 5];
        for _ in 0..20_000 {
            counts[sampling.sample(&LOGITS, &mut rng) as usize] += 1;
        }
        counts
    }

    #[test]
    fn token_frequencies_follow_the_temperature() {
        for temperature in [0.5f32, 1.0, 2.0] {
            let got = counts(SamplingOptions {
                temperature,
                ..SamplingOptions::default()
            });
            let weights: Vec<f64> = LOGITS
                .iter()
                .map(|x| f64::from(x / temperature).exp())
                .collect();
            let total: f64 = weights.iter().sum();
            for (count, weight) in got.iter().zip(&weights) {
                let share = *count as f64 / 20_000.0;
                assert!(
                    (share - weight / total).abs() < 0.015,
                    "{temperature}: {got:?}"
                );
            }
        }
    }

    #[test]
    fn zero_temperature_selects_the_lowest_id_among_ties() {
        let got = counts(SamplingOptions {
            temperature: 0.0,
            ..SamplingOptions::default()
        });
        assert_eq!(got, [0, 20_000, 0, 0, 0]);
        let cold = counts(SamplingOptions {
            temperature: 1e-30,
            ..SamplingOptions::default()
        });
        assert_eq!(cold[1] + cold[3], 20_000);
    }

    #[test]
    fn top_k_and_top_p_exclude_unlikely_tokens() {
        let k = counts(SamplingOptions {
            top_k: Some(3),
            ..SamplingOptions::default()
        });
        assert!(k[0] == 0 && k[4] == 0 && k[2] > 0);
        // The two most likely tokens have about 79 % together: 80 % needs the third, 70 % does not.
        let p = counts(SamplingOptions {
            top_p: 0.7,
            ..SamplingOptions::default()
        });
        assert!(p[1] > 0 && p[3] > 0 && p[2] == 0);
        let p = counts(SamplingOptions {
            top_p: 0.8,
            ..SamplingOptions::default()
        });
        assert!(p[2] > 0 && p[0] == 0);
    }

    #[test]
    fn most_likely_tokens_are_sorted_with_ties_by_id() {
        let total = crate::ops::target::log_sum_exp(&LOGITS);
        let top = most_likely(&LOGITS, 3, total);
        assert_eq!(top.iter().map(|(t, _)| *t).collect::<Vec<_>>(), [1, 3, 2]);
        assert!((top[0].1 - (2.0 - total)).abs() < 1e-6);
        assert_eq!(most_likely(&LOGITS, 99, total).len(), 5);
    }
}
