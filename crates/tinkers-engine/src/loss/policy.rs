//! Losses that compare the learner with the sampler that chose the tokens.

use super::{Clip, Loss};

/// Log-ratios beyond this are held there: a ratio of e^20 says that something is wrong, not how far to step.
const MAX_LOG_RATIO: f32 = 20.0;

/// The loss at one position and its slope over `p`, where `p` and `q` are the log-probabilities of learner and sampler.
pub(super) fn place(loss: &Loss, p: f32, q: f32, advantage: f32) -> (f32, f32) {
    match loss {
        Loss::CrossEntropy => (-p, -1.0),
        Loss::ImportanceSampling => {
            let value = -ratio(p, q) * advantage;
            // The ratio is its own derivative over p.
            (value, value)
        }
        Loss::Ppo(clip) => {
            let free = ratio(p, q) * advantage;
            let held = clipped(ratio(p, q), *clip) * advantage;
            if free <= held {
                (-free, -free)
            } else {
                (-held, 0.0)
            }
        }
        Loss::Cispo(clip) => {
            let weight = clipped(ratio(p, q), *clip) * advantage;
            (-weight * p, -weight)
        }
        Loss::Dro { beta } => {
            let apart = p - q;
            let value = -(p * advantage - 0.5 * beta * apart * apart);
            (value, -(advantage - beta * apart))
        }
    }
}

/// `exp(p - q)`.
pub(super) fn ratio(p: f32, q: f32) -> f32 {
    (p - q).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
}

fn clipped(ratio: f32, clip: Clip) -> f32 {
    ratio.clamp(clip.low, clip.high)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIP: Clip = Clip {
        low: 0.8,
        high: 1.2,
    };

    fn slope_by_differences(loss: &Loss, p: f32, q: f32, advantage: f32) -> f32 {
        let step = 1e-2;
        (place(loss, p + step, q, advantage).0 - place(loss, p - step, q, advantage).0)
            / (2.0 * step)
    }

    #[test]
    fn slopes_agree_with_finite_differences() {
        let losses = [
            Loss::ImportanceSampling,
            Loss::Ppo(CLIP),
            Loss::Dro { beta: 0.7 },
        ];
        for loss in &losses {
            for advantage in [1.5, -0.75] {
                // Ratios within the interval, above and below it, away from its ends.
                for p in [-1.0, -0.5, -1.5] {
                    let got = place(loss, p, -1.0, advantage).1;
                    let want = slope_by_differences(loss, p, -1.0, advantage);
                    assert!(
                        (got - want).abs() < 2e-3,
                        "{loss:?} {p} {advantage}: {got} {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn ppo_takes_the_worse_of_free_and_clipped() {
        let ratio = 2.0f32;
        let p = -1.0 + ratio.ln();
        let (loss, slope) = place(&Loss::Ppo(CLIP), p, -1.0, 1.0);
        assert!((loss + 1.2).abs() < 1e-5);
        assert_eq!(slope, 0.0);
        let (loss, slope) = place(&Loss::Ppo(CLIP), p, -1.0, -1.0);
        assert!((loss - 2.0).abs() < 1e-5 && (slope - 2.0).abs() < 1e-5);
    }

    #[test]
    fn cispo_holds_the_clipped_ratio_constant() {
        let clip = Clip {
            low: 0.0,
            high: 4.0,
        };
        let p = -3.0 + 10f32.ln();
        let (loss, slope) = place(&Loss::Cispo(clip), p, -3.0, 0.5);
        assert!((loss + 4.0 * 0.5 * p).abs() < 1e-5);
        assert_eq!(slope, -2.0);
    }

    #[test]
    fn equal_learner_and_sampler_give_the_plain_policy_gradient() {
        for loss in [Loss::ImportanceSampling, Loss::Ppo(CLIP), Loss::Cispo(CLIP)] {
            assert_eq!(place(&loss, -2.0, -2.0, 3.0).1, -3.0, "{loss:?}");
        }
    }

    #[test]
    fn a_ratio_never_overflows() {
        assert!(
            place(&Loss::ImportanceSampling, 0.0, -1e9, 1.0)
                .0
                .is_finite()
        );
    }
}
