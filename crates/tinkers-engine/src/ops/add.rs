//! Addition of two values of equal shape, and of a bias to every row.

use super::matrix::Matrix;
use super::tape::{Node, Tape};

/// Computes `left + right`.
pub(crate) fn add(tape: &Tape, left: &Node, right: &Node) -> Node {
    let (l, r) = (left.value(), right.value());
    let sum = l.data().iter().zip(r.data()).map(|(a, b)| a + b).collect();
    let value = Matrix::new(sum, l.rows(), l.cols());
    let inputs = (left.clone(), right.clone());
    tape.record(value, &[left, right], move |grad, grads| {
        if inputs.0.requires_grad() {
            grads.add(&inputs.1, grad.clone());
            grads.add(&inputs.0, grad);
        } else {
            grads.add(&inputs.1, grad);
        }
    })
}

/// Adds `bias`, a single row, to every row of `x`. `bias` gets no gradient.
pub(crate) fn add_bias(tape: &Tape, x: &Node, bias: &Matrix) -> Node {
    let value = x.value();
    let mut sum = value.data().to_vec();
    for row in sum.chunks_exact_mut(bias.cols()) {
        row.iter_mut().zip(bias.data()).for_each(|(x, b)| *x += b);
    }
    let out = Matrix::new(sum, value.rows(), value.cols());
    let input = x.clone();
    tape.record(out, &[x], move |grad, grads| grads.add(&input, grad))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tape::check;

    #[test]
    fn addition_gradients_agree_with_finite_differences() {
        for which in 0..2 {
            check::gradient(&[(2, 3), (2, 3)], which, |t, a| add(t, &a[0], &a[1]));
        }
        let bias = Matrix::new(vec![1.0, 2.0, 3.0], 1, 3);
        check::gradient(&[(2, 3)], 0, |t, a| add_bias(t, &a[0], &bias));
        check::gradient(&[(2, 3)], 0, |t, a| add(t, &a[0], &a[0]));
    }
}
