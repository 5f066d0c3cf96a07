//! The SwiGLU activation of the MLP.

use super::math;
use super::matrix::Matrix;
use super::tape::{Node, Tape};

/// Computes `silu(gate) * up` elementwise.
pub(crate) fn swiglu(tape: &Tape, gate: &Node, up: &Node) -> Node {
    let (g, u) = (gate.value(), up.value());
    let mut out = vec![0f32; g.data().len()];
    for ((out, &g), &u) in out.iter_mut().zip(g.data()).zip(u.data()) {
        *out = g * math::sigmoid(g) * u;
    }
    let value = Matrix::new(out, g.rows(), g.cols());
    let (gate_in, up_in) = (gate.clone(), up.clone());
    tape.record(value, &[gate, up], move |mut grad, grads| {
        let (gate, up) = (gate_in.value().data(), up_in.value().data());
        let mut dgate = vec![0f32; gate.len()];
        let inputs = gate.iter().zip(up);
        for ((dgate, grad), (&x, &u)) in dgate.iter_mut().zip(&mut grad).zip(inputs) {
            let s = math::sigmoid(x);
            *dgate = *grad * u * s * (1.0 + x * (1.0 - s));
            *grad *= x * s;
        }
        grads.add(&gate_in, dgate);
        grads.add(&up_in, grad);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tape::check;

    #[test]
    fn swiglu_gradients_agree_with_finite_differences() {
        for which in 0..2 {
            check::gradient(&[(3, 5), (3, 5)], which, |t, a| swiglu(t, &a[0], &a[1]));
        }
    }
}
