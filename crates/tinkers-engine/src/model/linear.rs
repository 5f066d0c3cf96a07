//! A linear layer of the base model with an optional LoRA adapter.

use crate::error::Result;
use crate::ops::add::add_bias;
use crate::ops::linear::{LowRank, linear};
use crate::ops::tape::{Node, Tape};
use crate::weights::Weights;

/// A linear layer, `x · weightᵀ + bias`.
#[derive(Debug)]
pub(super) struct Linear {
    weight: Node,
    bias: Option<Node>,
}

impl Linear {
    /// Creates a layer from the weights `{name}.weight` of shape `[outputs, inputs]` and, if present, `{name}.bias`. Removes both
    /// weights from `weights`.
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

    /// Creates a layer whose weight is the weight of the embedding.
    pub(super) fn tied(embedding: &Node) -> Self {
        Self {
            weight: embedding.clone(),
            bias: None,
        }
    }

    /// Applies the layer and the adapter, if any, to `x` of shape `[rows, inputs]`.
    pub(super) fn forward(&self, tape: &Tape, x: &Node, adapter: Option<&LowRank>) -> Node {
        let y = linear(tape, x, &self.weight, adapter);
        match &self.bias {
            None => y,
            Some(bias) => add_bias(tape, &y, bias.value()),
        }
    }
}
