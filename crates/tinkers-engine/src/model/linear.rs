//! A linear layer of the base, with an adapter beside it where there is one.

use crate::error::Result;
use crate::ops::add::add_bias;
use crate::ops::linear::{LowRank, linear};
use crate::ops::tape::{Node, Tape};
use crate::weights::Weights;

/// `x · weightᵀ + bias`.
#[derive(Debug)]
pub(super) struct Linear {
    weight: Node,
    bias: Option<Node>,
}

impl Linear {
    /// Takes `{name}.weight` of `[outputs, inputs]` and, where there is one, `{name}.bias`.
    pub(super) fn new(
        weights: &mut Weights,
        name: &str,
        outputs: usize,
        inputs: usize,
    ) -> Result<Self> {
        Ok(Self {
            weight: weights.take(&format!("{name}.weight"), outputs, inputs)?,
            bias: weights.take_if_present(&format!("{name}.bias"), 1, outputs)?,
        })
    }

    /// A layer that shares the embedding's weight.
    pub(super) fn tied(embedding: &Node) -> Self {
        Self {
            weight: embedding.clone(),
            bias: None,
        }
    }

    /// Applies the layer to `x` of `[rows, inputs]`.
    pub(super) fn forward(&self, tape: &Tape, x: &Node, adapter: Option<&LowRank>) -> Node {
        let y = linear(tape, x, &self.weight, adapter);
        match &self.bias {
            None => y,
            Some(bias) => add_bias(tape, &y, bias.value()),
        }
    }
}
