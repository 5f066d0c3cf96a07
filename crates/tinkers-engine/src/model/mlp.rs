//! The gated MLP of a block.

use super::linear::Linear;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::lora::LayerAdapters;
use crate::ops::swiglu::swiglu;
use crate::ops::tape::{Node, Tape};
use crate::weights::Weights;

/// A gated MLP, `down(silu(gate(x)) * up(x))`.
#[derive(Debug)]
pub(super) struct Mlp {
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Mlp {
    pub(super) fn new(config: &ModelConfig, weights: &mut Weights, prefix: &str) -> Result<Self> {
        let (outer, inner) = (config.hidden_size, config.intermediate_size);
        Ok(Self {
            gate: Linear::new(weights, &format!("{prefix}.gate_proj"), inner, outer)?,
            up: Linear::new(weights, &format!("{prefix}.up_proj"), inner, outer)?,
            down: Linear::new(weights, &format!("{prefix}.down_proj"), outer, inner)?,
        })
    }

    pub(super) fn forward(&self, tape: &Tape, x: &Node, adapters: &LayerAdapters) -> Node {
        let gate = self.gate.forward(tape, x, adapters.gate.as_ref());
        let up = self.up.forward(tape, x, adapters.up.as_ref());
        let inner = swiglu(tape, &gate, &up);
        self.down.forward(tape, &inner, adapters.down.as_ref())
    }
}
