//! RMS normalisation of rows with a learned scale.

use super::math;
use super::matrix::Matrix;
use super::tape::{Grads, Node, Tape};

/// Computes `x / sqrt(mean(x²) + eps) * weight` for each row of `x`. `weight` is a single row of the same width.
pub(crate) fn rms_norm(tape: &Tape, x: &Node, weight: &Node, eps: f32) -> Node {
    let (input, w) = (x.value(), weight.value().data());
    let mut out = vec![0f32; input.data().len()];
    let mut scales = Vec::with_capacity(input.rows());
    for (to, row) in out
        .chunks_exact_mut(w.len())
        .zip(input.data().chunks_exact(w.len()))
    {
        let scale = scale(row, eps);
        scales.push(scale);
        for ((to, x), w) in to.iter_mut().zip(row).zip(w) {
            *to = x * scale * w;
        }
    }
    let value = Matrix::new(out, input.rows(), input.cols());
    let (x_in, weight_in) = (x.clone(), weight.clone());
    tape.record(value, &[x, weight], move |grad, grads| {
        backward(&x_in, &weight_in, &scales, &grad, grads);
    })
}

#[expect(clippy::cast_precision_loss, reason = "widths are small integers")]
fn scale(row: &[f32], eps: f32) -> f32 {
    1.0 / (math::dot(row, row) / row.len() as f32 + eps).sqrt()
}

#[expect(clippy::cast_precision_loss, reason = "widths are small integers")]
fn backward(x: &Node, weight: &Node, scales: &[f32], grad: &[f32], grads: &mut Grads) {
    let w = weight.value().data();
    let width = w.len();
    let mut dx = vec![0f32; grad.len()];
    let mut dw = vec![0f32; width];
    let rows = x.value().data().chunks_exact(width);
    let rows = rows.zip(grad.chunks_exact(width)).zip(scales);
    for (dx, ((row, grad), &scale)) in dx.chunks_exact_mut(width).zip(rows) {
        for ((dx, g), w) in dx.iter_mut().zip(grad).zip(w) {
            *dx = g * w;
        }
        let pull = math::dot(dx, row) * scale * scale * scale / width as f32;
        for (dx, x) in dx.iter_mut().zip(row) {
            *dx = *dx * scale - x * pull;
        }
        if weight.requires_grad() {
            for ((dw, g), x) in dw.iter_mut().zip(grad).zip(row) {
                *dw += g * x * scale;
            }
        }
    }
    grads.add(x, dx);
    grads.add(weight, dw);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tape::check;

    #[test]
    fn rms_norm_gradients_agree_with_finite_differences() {
        for which in 0..2 {
            check::gradient(&[(3, 10), (1, 10)], which, |t, a| {
                rms_norm(t, &a[0], &a[1], 1e-5)
            });
        }
    }

    #[test]
    fn rms_norm_leaves_a_row_of_ones_unchanged() {
        let ones = || Node::constant(Matrix::new(vec![1.0; 8], 1, 8));
        let y = rms_norm(&Tape::default(), &ones(), &ones(), 0.0);
        assert!(y.value().data().iter().all(|v| (v - 1.0).abs() < 1e-6));
    }
}
