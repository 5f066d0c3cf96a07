//! The tape of reverse-mode automatic differentiation.

use std::cell::RefCell;

use super::matrix::Matrix;

/// A matrix that is an input or a result of a computation. If it requires a gradient, it has an index in the [`Tape`].
#[derive(Clone, Debug)]
pub(crate) struct Node {
    value: Matrix,
    id: Option<usize>,
}

impl Node {
    /// Creates a value that requires no gradient.
    pub(crate) fn constant(value: Matrix) -> Self {
        Self { value, id: None }
    }

    pub(crate) fn value(&self) -> &Matrix {
        &self.value
    }

    /// Returns whether the value requires a gradient.
    pub(crate) fn requires_grad(&self) -> bool {
        self.id.is_some()
    }

    /// Returns the same values in another shape. Gradients pass through unchanged.
    pub(crate) fn reshaped(&self, rows: usize, cols: usize) -> Self {
        Self {
            value: self.value.reshaped(rows, cols),
            id: self.id,
        }
    }
}

type Backward = Box<dyn FnOnce(Vec<f32>, &mut Grads)>;

/// The operations of one computation in the order of execution, each with the function that computes its gradients. Only one thread
/// uses a tape.
#[derive(Default)]
pub(crate) struct Tape {
    steps: RefCell<Vec<Option<Backward>>>,
}

impl Tape {
    /// Creates a leaf. A leaf is an input that requires a gradient.
    pub(crate) fn leaf(&self, value: Matrix) -> Node {
        let mut steps = self.steps.borrow_mut();
        steps.push(None);
        Node {
            value,
            id: Some(steps.len() - 1),
        }
    }

    /// Records the result of an operation on `inputs`. `backward` computes the gradients of the inputs from the gradient of the
    /// result. If no input requires a gradient, `backward` is dropped.
    pub(crate) fn record(
        &self,
        value: Matrix,
        inputs: &[&Node],
        backward: impl FnOnce(Vec<f32>, &mut Grads) + 'static,
    ) -> Node {
        if !inputs.iter().any(|node| node.requires_grad()) {
            return Node::constant(value);
        }
        let mut steps = self.steps.borrow_mut();
        steps.push(Some(Box::new(backward)));
        Node {
            value,
            id: Some(steps.len() - 1),
        }
    }

    /// Computes the gradients of the scalar `sum(seed * node)` with respect to every leaf that `node` depends on.
    pub(crate) fn backward(self, node: &Node, seed: Vec<f32>) -> Grads {
        let mut steps = self.steps.into_inner();
        let mut grads = Grads {
            slots: (0..steps.len()).map(|_| None).collect(),
        };
        grads.add(node, seed);
        for index in (0..steps.len()).rev() {
            let Some(backward) = steps[index].take() else {
                continue;
            };
            if let Some(grad) = grads.slots[index].take() {
                backward(grad, &mut grads);
            }
        }
        grads
    }
}

/// The gradients that a backward pass computes, by the index of their node in the [`Tape`].
#[derive(Debug)]
pub(crate) struct Grads {
    slots: Vec<Option<Vec<f32>>>,
}

impl Grads {
    /// Adds `grad` to the gradient of `node`, if `node` requires a gradient.
    pub(crate) fn add(&mut self, node: &Node, grad: Vec<f32>) {
        let Some(id) = node.id else {
            return;
        };
        debug_assert_eq!(grad.len(), node.value.data().len());
        match &mut self.slots[id] {
            None => self.slots[id] = Some(grad),
            Some(sum) => sum.iter_mut().zip(&grad).for_each(|(sum, g)| *sum += g),
        }
    }

    /// Removes and returns the gradient of a leaf, or returns `None` if the result does not depend on the leaf.
    pub(crate) fn take(&mut self, leaf: &Node) -> Option<Vec<f32>> {
        leaf.id.and_then(|id| self.slots[id].take())
    }
}

#[cfg(test)]
pub(crate) mod check {
    //! Comparison of backward passes with finite differences.

    use super::*;
    use crate::rng::Rng;

    /// Asserts that the gradient of `sum(w * f(args))` with respect to `args[which]` matches central differences, where `w` is
    /// random and fixed.
    pub(crate) fn gradient(
        shapes: &[(usize, usize)],
        which: usize,
        f: impl Fn(&Tape, &[Node]) -> Node,
    ) {
        let mut rng = Rng::new(11);
        let values: Vec<Vec<f32>> = shapes
            .iter()
            .map(|(r, c)| rng.uniform(r * c, 1.0))
            .collect();
        let run = |values: &[Vec<f32>]| {
            let tape = Tape::default();
            let args: Vec<Node> = values
                .iter()
                .zip(shapes)
                .enumerate()
                .map(|(index, (v, &(rows, cols)))| {
                    let value = Matrix::new(v.clone(), rows, cols);
                    if index == which {
                        tape.leaf(value)
                    } else {
                        Node::constant(value)
                    }
                })
                .collect();
            let out = f(&tape, &args);
            (tape, args, out)
        };
        let (tape, args, out) = run(&values);
        let weight = rng.uniform(out.value().data().len(), 1.0);
        let mut grads = tape.backward(&out, weight.clone());
        let grad = grads
            .take(&args[which])
            .expect("a gradient reaches the argument");
        assert!(grad.iter().any(|g| g.abs() > 1e-3), "the gradient is zero");

        let value = |values: &[Vec<f32>]| -> f64 {
            let out = run(values).2;
            let pairs = out.value().data().iter().zip(&weight);
            pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        for (index, &got) in grad.iter().enumerate() {
            let step = 1e-2f32;
            let mut up = values.clone();
            up[which][index] += step;
            let mut down = values.clone();
            down[which][index] -= step;
            let want = (value(&up) - value(&down)) / (2.0 * f64::from(step));
            assert!(
                (f64::from(got) - want).abs() < 1e-2 * want.abs().max(0.5),
                "argument {which}, element {index}: got {got}, finite difference {want}"
            );
        }
    }
}
