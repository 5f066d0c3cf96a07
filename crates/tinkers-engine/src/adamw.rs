//! The AdamW optimizer with bias correction, decoupled weight decay and clipping by the global norm.

use crate::lora::Param;

/// The hyperparameters of an AdamW optimizer step, with the names and defaults of the Tinker API.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWParams {
    /// The learning rate.
    pub learning_rate: f64,
    /// The decay rate of the first moment.
    pub beta1: f64,
    /// The decay rate of the second moment.
    pub beta2: f64,
    /// The term that is added to the square root of the second moment, to avoid a division by zero.
    pub eps: f64,
    /// The decoupled weight decay: each weight is multiplied by `1 - learning_rate * weight_decay`.
    pub weight_decay: f64,
    /// The maximum global norm of the gradients; 0 or less disables clipping.
    pub grad_clip_norm: f64,
}

impl Default for AdamWParams {
    fn default() -> Self {
        Self {
            learning_rate: 1e-4,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-12,
            weight_decay: 0.0,
            grad_clip_norm: 0.0,
        }
    }
}

/// The state of the AdamW optimizer: the number of steps taken and both moments of each parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW {
    pub(crate) steps: u64,
    pub(crate) first: Vec<Vec<f32>>,
    pub(crate) second: Vec<Vec<f32>>,
}

/// The norms that an optimizer step computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// The global norm of the gradients before clipping.
    pub grad_norm: f64,
    /// The global norm of the parameters after the step.
    pub param_norm: f64,
    /// The global norm of the parameter changes.
    pub update_norm: f64,
}

impl AdamW {
    /// Creates the state of the optimizer before its first step. All moments are zero.
    #[must_use]
    pub fn new(params: &[Param]) -> Self {
        let zeros = || params.iter().map(|p| vec![0.0; p.data().len()]).collect();
        Self {
            steps: 0,
            first: zeros(),
            second: zeros(),
        }
    }

    /// Returns the number of optimizer steps that have been taken.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Returns whether both moments are finite for every parameter.
    pub(crate) fn is_finite(&self) -> bool {
        let moments = self.first.iter().chain(&self.second);
        moments.flatten().all(|moment| moment.is_finite())
    }

    /// Updates `params` with the gradients `grads`. `grads` has one vector for each parameter.
    ///
    /// Moments are stored in `f32`, but each element is computed in `f64`. So the result does not depend on how the compiler orders
    /// single-precision arithmetic.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "parameters and moments are kept as f32"
    )]
    pub fn step(
        &mut self,
        params: &mut [Param],
        grads: &[Vec<f32>],
        with: &AdamWParams,
    ) -> StepReport {
        self.steps += 1;
        let grad_norm = norm(grads.iter().map(Vec::as_slice));
        let clip = if with.grad_clip_norm > 0.0 && grad_norm > with.grad_clip_norm {
            with.grad_clip_norm / grad_norm
        } else {
            1.0
        };
        let steps = i32::try_from(self.steps).unwrap_or(i32::MAX);
        let correct1 = 1.0 - with.beta1.powi(steps);
        let correct2 = 1.0 - with.beta2.powi(steps);
        let keep = 1.0 - with.learning_rate * with.weight_decay;
        let mut moved = 0f64;
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((param, grad), (first, second)) in params.iter_mut().zip(grads).zip(moments) {
            for (((p, &g), m), v) in param
                .value
                .data_mut()
                .iter_mut()
                .zip(grad)
                .zip(first)
                .zip(second)
            {
                let g = f64::from(g) * clip;
                let m1 = with.beta1 * f64::from(*m) + (1.0 - with.beta1) * g;
                let v1 = with.beta2 * f64::from(*v) + (1.0 - with.beta2) * g * g;
                *m = m1 as f32;
                *v = v1 as f32;
                let old = f64::from(*p);
                let step = (m1 / correct1) / ((v1 / correct2).sqrt() + with.eps);
                *p = (old * keep - with.learning_rate * step) as f32;
                moved += (f64::from(*p) - old).powi(2);
            }
        }
        StepReport {
            grad_norm,
            param_norm: norm(params.iter().map(Param::data)),
            update_norm: moved.sqrt(),
        }
    }
}

fn norm<'a>(parts: impl Iterator<Item = &'a [f32]>) -> f64 {
    parts
        .flatten()
        .map(|&x| f64::from(x) * f64::from(x))
        .sum::<f64>()
        .sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::matrix::Matrix;

    fn param(data: &[f32]) -> Vec<Param> {
        vec![Param {
            name: "w".into(),
            value: Matrix::new(data.to_vec(), 1, data.len()),
        }]
    }

    /// Computes AdamW steps on a single weight with the formulas of the paper, as a reference.
    fn reference(mut w: f64, grads: &[f64], with: &AdamWParams) -> f64 {
        let (mut m, mut v) = (0.0, 0.0);
        for (t, g) in grads.iter().enumerate() {
            let t = i32::try_from(t).unwrap() + 1;
            w -= with.learning_rate * with.weight_decay * w;
            m = with.beta1 * m + (1.0 - with.beta1) * g;
            v = with.beta2 * v + (1.0 - with.beta2) * g * g;
            let mhat = m / (1.0 - with.beta1.powi(t));
            let vhat = v / (1.0 - with.beta2.powi(t));
            w -= with.learning_rate * mhat / (vhat.sqrt() + with.eps);
        }
        w
    }

    #[test]
    fn adamw_steps_agree_with_the_formulas_of_the_paper() {
        let with = AdamWParams {
            learning_rate: 0.05,
            weight_decay: 0.1,
            ..AdamWParams::default()
        };
        let grads = [0.5f32, -0.25, 0.0, 2.0, 0.125];
        let mut params = param(&[1.5, -0.75]);
        let mut adam = AdamW::new(&params);
        for &g in &grads {
            adam.step(&mut params, &[vec![g, -3.0 * g]], &with);
        }
        for (index, (start, factor)) in [(1.5, 1.0), (-0.75, -3.0)].into_iter().enumerate() {
            let grads: Vec<f64> = grads.iter().map(|&g| f64::from(g) * factor).collect();
            let want = reference(start, &grads, &with);
            let got = f64::from(params[0].data()[index]);
            assert!((got - want).abs() < 1e-6, "{got} {want}");
        }
        assert_eq!(adam.steps(), 5);
    }

    #[test]
    fn gradient_clipping_scales_all_gradients_by_the_global_norm() {
        let with = AdamWParams {
            grad_clip_norm: 1.0,
            ..AdamWParams::default()
        };
        let mut params = param(&[0.0, 0.0]);
        let mut adam = AdamW::new(&params);
        let report = adam.step(&mut params, &[vec![3.0, 4.0]], &with);
        assert!((report.grad_norm - 5.0).abs() < 1e-9);
        assert!((f64::from(adam.first[0][0]) - 0.1 * 0.6).abs() < 1e-7);
        assert!((f64::from(adam.first[0][1]) - 0.1 * 0.8).abs() < 1e-7);

        let mut free = AdamW::new(&params);
        let off = AdamWParams {
            grad_clip_norm: 0.0,
            ..with
        };
        free.step(&mut params, &[vec![3.0, 4.0]], &off);
        assert!((f64::from(free.first[0][1]) - 0.1 * 4.0).abs() < 1e-6);
    }

    #[test]
    fn first_adamw_step_with_zero_gradients_changes_no_weight() {
        let mut params = param(&[1.0]);
        let mut adam = AdamW::new(&params);
        let report = adam.step(&mut params, &[vec![0.0]], &AdamWParams::default());
        assert_eq!(params[0].data(), [1.0]);
        assert_eq!(report.update_norm, 0.0);
        assert_eq!(adam.steps(), 1);
    }

    #[test]
    fn zero_learning_rate_changes_no_weight() {
        let mut params = param(&[1.0]);
        let mut adam = AdamW::new(&params);
        let with = AdamWParams {
            learning_rate: 0.0,
            weight_decay: 0.5,
            ..AdamWParams::default()
        };
        adam.step(&mut params, &[vec![7.0]], &with);
        assert_eq!(params[0].data(), [1.0]);
        assert!(adam.second[0][0] > 0.0);
    }
}
