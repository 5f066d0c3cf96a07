//! Policy losses, which compare the model in training (the learner) with the sampler that generated the tokens.

use super::{Clip, LossFunction};

/// The maximum absolute value of the log of the probability ratio of learner and sampler. It prevents overflow. A ratio as large as
/// e^20 means that the tokens were not sampled from an earlier version of the learner.
const MAX_LOG_RATIO: f32 = 20.0;

/// Returns the loss of one target token and the derivative of this loss with respect to `p`.
///
/// `p` and `q` are the log-probabilities of the target token under the learner and under the sampler.
pub(super) fn evaluate(loss: &LossFunction, p: f32, q: f32, advantage: f32) -> (f32, f32) {
    match loss {
        LossFunction::CrossEntropy => (-p, -1.0),
        LossFunction::ImportanceSampling => {
            let value = -ratio(p, q) * advantage;
            // The ratio is its own derivative with respect to p.
            (value, value)
        }
        LossFunction::Ppo(clip) => {
            let unclipped = ratio(p, q) * advantage;
            let clipped = clip_ratio(ratio(p, q), *clip) * advantage;
            if unclipped <= clipped {
                (-unclipped, -unclipped)
            } else {
                (-clipped, 0.0)
            }
        }
        LossFunction::Cispo(clip) => {
            let weight = clip_ratio(ratio(p, q), *clip) * advantage;
            (-weight * p, -weight)
        }
        LossFunction::Dro { beta } => {
            let log_ratio = p - q;
            let value = -(p * advantage - 0.5 * beta * log_ratio * log_ratio);
            (value, -(advantage - beta * log_ratio))
        }
    }
}

/// Computes the probability ratio `exp(p - q)` from log-probabilities. The absolute value of the exponent is limited to
/// [`MAX_LOG_RATIO`].
pub(super) fn ratio(p: f32, q: f32) -> f32 {
    (p - q).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
}

fn clip_ratio(ratio: f32, clip: Clip) -> f32 {
    ratio.clamp(clip.low, clip.high)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIP: Clip = Clip {
        low: 0.8,
        high: 1.2,
    };

    fn derivative_by_differences(loss: &LossFunction, p: f32, q: f32, advantage: f32) -> f32 {
        let step = 1e-2;
        (evaluate(loss, p + step, q, advantage).0 - evaluate(loss, p - step, q, advantage).0)
            / (2.0 * step)
    }

    #[test]
    fn loss_derivatives_agree_with_finite_differences() {
        let losses = [
            LossFunction::ImportanceSampling,
            LossFunction::Ppo(CLIP),
            LossFunction::Dro { beta: 0.7 },
        ];
        for loss in &losses {
            for advantage in [1.5, -0.75] {
                // Ratios inside, above and below the interval, away from its ends.
                for p in [-1.0, -0.5, -1.5] {
                    let got = evaluate(loss, p, -1.0, advantage).1;
                    let want = derivative_by_differences(loss, p, -1.0, advantage);
                    assert!(
                        (got - want).abs() < 2e-3,
                        "{loss:?} {p} {advantage}: {got} {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn ppo_uses_the_smaller_of_unclipped_and_clipped_objective() {
        let ratio = 2.0f32;
        let p = -1.0 + ratio.ln();
        let (loss, derivative) = evaluate(&LossFunction::Ppo(CLIP), p, -1.0, 1.0);
        assert!((loss + 1.2).abs() < 1e-5);
        assert_eq!(derivative, 0.0);
        let (loss, derivative) = evaluate(&LossFunction::Ppo(CLIP), p, -1.0, -1.0);
        assert!((loss - 2.0).abs() < 1e-5 && (derivative - 2.0).abs() < 1e-5);
    }

    #[test]
    fn cispo_treats_the_clipped_ratio_as_constant() {
        let clip = Clip {
            low: 0.0,
            high: 4.0,
        };
        let p = -3.0 + 10f32.ln();
        let (loss, derivative) = evaluate(&LossFunction::Cispo(clip), p, -3.0, 0.5);
        assert!((loss + 4.0 * 0.5 * p).abs() < 1e-5);
        assert_eq!(derivative, -2.0);
    }

    #[test]
    fn on_policy_losses_have_the_unclipped_policy_gradient() {
        for loss in [
            LossFunction::ImportanceSampling,
            LossFunction::Ppo(CLIP),
            LossFunction::Cispo(CLIP),
        ] {
            assert_eq!(evaluate(&loss, -2.0, -2.0, 3.0).1, -3.0, "{loss:?}");
        }
    }

    #[test]
    fn large_probability_ratio_gives_a_finite_loss() {
        assert!(
            evaluate(&LossFunction::ImportanceSampling, 0.0, -1e9, 1.0)
                .0
                .is_finite()
        );
    }
}
