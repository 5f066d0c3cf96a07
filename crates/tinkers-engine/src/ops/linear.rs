//! Matrix products with a weight and an optional LoRA adapter. The weight may be frozen.
//!
//! A frozen weight is a constant of the tape. Its gradient, which would be a third of all arithmetic, is never computed.

use super::matrix::{Matrix, multiply, product};
use super::tape::{Node, Tape};

/// A LoRA adapter, `scale · (x · aᵀ) · bᵀ`, with `a` of shape `[rank, in]` and `b` of shape `[out, rank]`.
#[derive(Clone, Debug)]
pub(crate) struct LowRank {
    pub(crate) a: Node,
    pub(crate) b: Node,
    pub(crate) scale: f32,
}

/// Computes `x · weightᵀ` plus the output of the adapter, if any, for `x` of shape `[rows, in]` and `weight` of shape
/// `[out, in]`.
pub(crate) fn linear(tape: &Tape, x: &Node, weight: &Node, adapter: Option<&LowRank>) -> Node {
    match adapter {
        None => without_adapter(tape, x, weight),
        Some(adapter) => adapted(tape, x, weight, adapter),
    }
}

fn without_adapter(tape: &Tape, x: &Node, weight: &Node) -> Node {
    let (input, w) = (x.value(), weight.value());
    let out = product(input.view(), w.view().t());
    let value = Matrix::new(out, input.rows(), w.rows());
    let (x_in, weight_in) = (x.clone(), weight.clone());
    tape.record(value, &[x, weight], move |grad, grads| {
        let (x, w) = (x_in.value(), weight_in.value());
        let grad = Matrix::new(grad, x.rows(), w.rows());
        if weight_in.requires_grad() {
            grads.add(&weight_in, product(grad.view().t(), x.view()));
        }
        if x_in.requires_grad() {
            grads.add(&x_in, product(grad.view(), w.view()));
        }
    })
}

fn adapted(tape: &Tape, x: &Node, weight: &Node, adapter: &LowRank) -> Node {
    let (input, w) = (x.value(), weight.value());
    let (a, b) = (adapter.a.value(), adapter.b.value());
    let mut out = product(input.view(), w.view().t());
    let inner = Matrix::new(product(input.view(), a.view().t()), input.rows(), a.rows());
    multiply(adapter.scale, inner.view(), b.view().t(), 1.0, &mut out);
    let value = Matrix::new(out, input.rows(), w.rows());

    let inputs = [x, &adapter.a, &adapter.b];
    let (x_in, weight, adapter) = (x.clone(), weight.value().clone(), adapter.clone());
    tape.record(value, &inputs, move |grad, grads| {
        // With u = x·aᵀ: dB = s·gᵀ·u, du = s·g·B, dA = duᵀ·x, dx = g·W + du·A.
        let x = x_in.value();
        let (a, b, scale) = (adapter.a.value(), adapter.b.value(), adapter.scale);
        let grad = Matrix::new(grad, x.rows(), weight.rows());
        let mut db = vec![0f32; b.data().len()];
        multiply(scale, grad.view().t(), inner.view(), 0.0, &mut db);
        grads.add(&adapter.b, db);
        let mut du = vec![0f32; x.rows() * a.rows()];
        multiply(scale, grad.view(), b.view(), 0.0, &mut du);
        let du = Matrix::new(du, x.rows(), a.rows());
        grads.add(&adapter.a, product(du.view().t(), x.view()));
        if x_in.requires_grad() {
            let mut dx = product(grad.view(), weight.view());
            multiply(1.0, du.view(), a.view(), 1.0, &mut dx);
            grads.add(&x_in, dx);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tape::check;
    use crate::rng::Rng;

    #[test]
    fn linear_layer_gradients_agree_with_finite_differences() {
        for which in 0..2 {
            check::gradient(&[(4, 6), (5, 6)], which, |t, a| {
                linear(t, &a[0], &a[1], None)
            });
        }
        let weight = Node::constant(Matrix::new(Rng::new(5).uniform(30, 1.0), 5, 6));
        for which in 0..3 {
            check::gradient(&[(4, 6), (2, 6), (5, 2)], which, |t, args| {
                let adapter = LowRank {
                    a: args[1].clone(),
                    b: args[2].clone(),
                    scale: 1.5,
                };
                linear(t, &args[0], &weight, Some(&adapter))
            });
        }
    }
}
