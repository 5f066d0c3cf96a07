//! Log-probabilities of target tokens, computed directly from logits.

use std::sync::Arc;

use super::math;
use super::matrix::Matrix;
use super::tape::{Node, Tape};

/// Computes the log-probabilities `[rows, per_row]` of the target tokens `targets` under `logits` `[rows, vocabulary]`.
///
/// The log-probabilities of the other tokens are not stored: for large vocabularies, that matrix would dominate memory.
pub(crate) fn log_probs(tape: &Tape, logits: &Node, targets: Arc<[u32]>, per_row: usize) -> Node {
    let input = logits.value();
    let mut out = Vec::with_capacity(targets.len());
    let mut totals = Vec::with_capacity(input.rows());
    let rows = input.data().chunks_exact(input.cols());
    for (row, targets) in rows.zip(targets.chunks_exact(per_row)) {
        let total = log_sum_exp(row);
        totals.push(total);
        out.extend(targets.iter().map(|&t| row[t as usize] - total));
    }
    let value = Matrix::new(out, input.rows(), per_row);
    let logits_in = logits.clone();
    tape.record(value, &[logits], move |grad, grads| {
        let logits = logits_in.value();
        let mut out = vec![0f32; logits.data().len()];
        let rows = out
            .chunks_exact_mut(logits.cols())
            .zip(logits.data().chunks_exact(logits.cols()))
            .zip(targets.chunks_exact(per_row))
            .zip(grad.chunks_exact(per_row))
            .zip(&totals);
        for ((((out, logits), targets), grad), total) in rows {
            if grad.iter().all(|&g| g == 0.0) {
                continue;
            }
            let weight: f32 = grad.iter().sum();
            for (o, x) in out.iter_mut().zip(logits) {
                *o = -weight * math::exp(x - total);
            }
            for (&target, g) in targets.iter().zip(grad) {
                out[target as usize] += g;
            }
        }
        grads.add(&logits_in, out);
    })
}

/// Computes the log of the sum of exponentials of a row.
pub(crate) fn log_sum_exp(row: &[f32]) -> f32 {
    let top = math::max(row);
    let mut lanes = [0f32; 8];
    let chunks = row.chunks_exact(8);
    let mut total: f32 = chunks.remainder().iter().map(|x| math::exp(x - top)).sum();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += math::exp(x - top);
        }
    }
    total += lanes.iter().sum::<f32>();
    top + total.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tape::check;

    #[test]
    fn log_prob_gradients_agree_with_finite_differences() {
        let targets: Arc<[u32]> = vec![3, 0, 8, 8, 1, 2].into();
        check::gradient(&[(3, 9)], 0, |t, a| {
            log_probs(t, &a[0], Arc::clone(&targets), 2)
        });
    }

    #[test]
    fn probabilities_of_all_target_tokens_in_a_row_sum_to_one() {
        let row = Matrix::new(vec![0.5f32, -3.0, 12.0, 11.0, 0.0], 1, 5);
        let targets = vec![0, 1, 2, 3, 4].into();
        let all = log_probs(&Tape::default(), &Node::constant(row), targets, 5);
        let sum: f32 = all.value().data().iter().map(|p| p.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6);
    }
}
