//! A transformer block: attention and MLP, each applied to the normalised input and added to the residual stream.

use std::sync::Arc;

use super::attention::{Attend, Attention};
use super::mlp::Mlp;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::lora::LayerAdapters;
use crate::ops::add::add;
use crate::ops::norm::rms_norm;
use crate::ops::rope::{Angles, Positions};
use crate::ops::tape::{Node, Tape};
use crate::weights::Weights;

#[derive(Debug)]
pub(super) struct Block {
    before_attention: Node,
    attention: Attention,
    before_mlp: Node,
    mlp: Mlp,
    eps: f32,
}

impl Block {
    pub(super) fn new(config: &ModelConfig, weights: &mut Weights, index: usize) -> Result<Self> {
        let prefix = format!("model.layers.{index}");
        let width = config.hidden_size;
        let mut norm = |name: &str| weights.take(&format!("{prefix}.{name}.weight"), 1, width);
        Ok(Self {
            before_attention: norm("input_layernorm")?,
            before_mlp: norm("post_attention_layernorm")?,
            attention: Attention::new(config, weights, &format!("{prefix}.self_attn"))?,
            mlp: Mlp::new(config, weights, &format!("{prefix}.mlp"))?,
            eps: config.rms_norm_eps,
        })
    }

    pub(super) fn forward(
        &self,
        tape: &Tape,
        x: &Node,
        adapters: &LayerAdapters,
        rotary: (&Arc<Angles>, Positions),
        attend: Attend<'_>,
    ) -> Node {
        let normed = rms_norm(tape, x, &self.before_attention, self.eps);
        let mixed = self
            .attention
            .forward(tape, &normed, adapters, rotary, attend);
        let x = add(tape, x, &mixed);
        let normed = rms_norm(tape, &x, &self.before_mlp, self.eps);
        add(tape, &x, &self.mlp.forward(tape, &normed, adapters))
    }
}
