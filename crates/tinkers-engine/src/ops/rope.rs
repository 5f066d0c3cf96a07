//! Rotary position embeddings.

use std::sync::Arc;

use super::matrix::Matrix;
use super::tape::{Node, Tape};

/// A table of the rotary sines and cosines for every position.
#[derive(Debug)]
pub(crate) struct Angles {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// The token positions to which the rows of a matrix belong: `start..start + len`, repeated for each sequence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Positions {
    pub(crate) start: usize,
    pub(crate) len: usize,
}

impl Angles {
    /// Computes the table for `positions` positions. The rotary angle of a pair of values is the position times the frequency of
    /// the pair.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "angles are computed in f64 and kept as the f32 that the model computes with"
    )]
    pub(crate) fn new(frequencies: &[f64], positions: usize) -> Self {
        let half = frequencies.len();
        let mut cos = Vec::with_capacity(half * positions);
        let mut sin = Vec::with_capacity(half * positions);
        for position in 0..positions {
            for frequency in frequencies {
                let angle = position as f64 * frequency;
                cos.push(angle.cos() as f32);
                sin.push(angle.sin() as f32);
            }
        }
        Self { half, cos, sin }
    }

    /// Rotates all heads of `from` by the angles of their rows. If `direction` is -1, rotates them back.
    fn rotate(&self, from: &[f32], cols: usize, at: Positions, direction: f32) -> Vec<f32> {
        let (half, width) = (self.half, 2 * self.half);
        let mut out = vec![0f32; from.len()];
        let rows = from.chunks_exact(cols).zip(out.chunks_exact_mut(cols));
        for (row, (from, to)) in rows.enumerate() {
            let offset = (at.start + row % at.len) * half;
            let cos = &self.cos[offset..offset + half];
            let sin = &self.sin[offset..offset + half];
            for (from, to) in from.chunks_exact(width).zip(to.chunks_exact_mut(width)) {
                let (a, b) = from.split_at(half);
                let (ra, rb) = to.split_at_mut(half);
                for i in 0..half {
                    let sin = sin[i] * direction;
                    ra[i] = a[i] * cos[i] - b[i] * sin;
                    rb[i] = b[i] * cos[i] + a[i] * sin;
                }
            }
        }
        out
    }
}

/// Rotates every head of every row of `x`.
///
/// Value `i` of a head is paired with value `i + width / 2`, as in the Hugging Face layout of Llama weights.
pub(crate) fn rotate(tape: &Tape, x: &Node, angles: &Arc<Angles>, at: Positions) -> Node {
    let (rows, cols) = (x.value().rows(), x.value().cols());
    let out = angles.rotate(x.value().data(), cols, at, 1.0);
    let (input, angles) = (x.clone(), Arc::clone(angles));
    tape.record(Matrix::new(out, rows, cols), &[x], move |grad, grads| {
        // The transpose of a rotation is its inverse.
        grads.add(&input, angles.rotate(&grad, cols, at, -1.0));
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tape::check;

    #[test]
    fn rotary_gradients_agree_with_finite_differences() {
        let angles = Arc::new(Angles::new(&[1.0, 0.3], 8));
        let at = Positions { start: 2, len: 3 };
        check::gradient(&[(6, 8)], 0, |t, a| rotate(t, &a[0], &angles, at));
    }

    #[test]
    fn rotated_attention_scores_depend_only_on_the_distance() {
        let angles = Arc::new(Angles::new(&[1.0, 0.3], 32));
        let rotated = |data: [f32; 4], start| {
            let x = Node::constant(Matrix::new(data.to_vec(), 1, 4));
            let at = Positions { start, len: 1 };
            rotate(&Tape::default(), &x, &angles, at)
                .value()
                .data()
                .to_vec()
        };
        let score = |at: usize, distance: usize| -> f32 {
            let q = rotated([0.3, -0.2, 0.7, 0.1], at + distance);
            let k = rotated([-0.5, 0.4, 0.2, 0.9], at);
            q.iter().zip(&k).map(|(a, b)| a * b).sum()
        };
        assert!((score(0, 5) - score(20, 5)).abs() < 1e-5);
        assert!((score(0, 5) - score(0, 6)).abs() > 1e-3);
    }
}
