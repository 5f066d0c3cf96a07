//! The decoder: embedding, blocks, final norm, unembedding.

mod attention;
mod block;
mod cache;
mod linear;
mod mlp;

use std::sync::Arc;

use crate::config::ModelConfig;
use crate::error::Result;
use crate::lora::Adapters;
use crate::ops::embed::rows;
use crate::ops::norm::rms_norm;
use crate::ops::rope::{Angles, Positions};
use crate::ops::tape::{Node, Tape};
use crate::weights::Weights;
use attention::Attend;
use block::Block;
use linear::Linear;

pub(crate) use cache::KvCache;

/// A decoder-only language model.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    embed: Node,
    blocks: Vec<Block>,
    norm: Node,
    head: Linear,
    angles: Arc<Angles>,
}

impl Model {
    /// Builds the model that `config` describes. `weights` must have the names of the Hugging Face layout.
    ///
    /// # Errors
    ///
    /// Returns [`crate::Error::Model`] with the name of a weight that is missing or has another shape.
    pub fn new(config: ModelConfig, weights: Weights) -> Result<Self> {
        let angles = Self::angles(&config);
        Self::with_angles(config, weights, angles)
    }

    /// Computes the table of rotary angles for [`Self::with_angles`].
    pub(crate) fn angles(config: &ModelConfig) -> Arc<Angles> {
        let positions = config.max_position_embeddings;
        Arc::new(Angles::new(&config.frequencies(), positions))
    }

    /// Builds the model like [`Self::new`], with a table of rotary angles that was computed before.
    pub(crate) fn with_angles(
        config: ModelConfig,
        mut weights: Weights,
        angles: Arc<Angles>,
    ) -> Result<Self> {
        let (vocabulary, width) = (config.vocab_size, config.hidden_size);
        let embed = weights.take("model.embed_tokens.weight", vocabulary, width)?;
        let blocks = (0..config.num_hidden_layers)
            .map(|index| Block::new(&config, &mut weights, index))
            .collect::<Result<_>>()?;
        let norm = weights.take("model.norm.weight", 1, width)?;
        let head = if config.tie_word_embeddings {
            Linear::tied(&embed)
        } else {
            Linear::new(&mut weights, "lm_head", vocabulary, width)?
        };
        Ok(Self {
            config,
            embed,
            blocks,
            norm,
            head,
            angles,
        })
    }

    /// Returns the config of the model.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Computes the hidden states after the final norm, of shape `[tokens, hidden_size]`. `tokens` is a concatenation of sequences.
    /// Each sequence has `len` tokens.
    pub(crate) fn hidden(
        &self,
        tape: &Tape,
        adapters: &Adapters,
        tokens: &Arc<[u32]>,
        len: usize,
    ) -> Node {
        let mut x = rows(tape, &self.embed, tokens);
        let at = Positions { start: 0, len };
        for (block, adapters) in self.blocks.iter().zip(&adapters.layers) {
            x = block.forward(tape, &x, adapters, (&self.angles, at), Attend::Whole);
        }
        rms_norm(tape, &x, &self.norm, self.config.rms_norm_eps)
    }

    /// Computes the hidden states of new tokens that continue the sequences of `cache`. Each sequence gets the same number of
    /// tokens.
    pub(crate) fn extend(
        &self,
        adapters: &Adapters,
        tokens: &Arc<[u32]>,
        cache: &mut KvCache,
    ) -> Node {
        let tape = Tape::default();
        let at = Positions {
            start: cache.len(),
            len: tokens.len() / cache.sequences(),
        };
        let mut x = rows(&tape, &self.embed, tokens);
        for (index, (block, adapters)) in self.blocks.iter().zip(&adapters.layers).enumerate() {
            let attend = Attend::Cached(cache.layer(index, at.len));
            x = block.forward(&tape, &x, adapters, (&self.angles, at), attend);
        }
        cache.advance(at.len);
        rms_norm(&tape, &x, &self.norm, self.config.rms_norm_eps)
    }

    /// Computes the logits of hidden states, of shape `[rows, vocab_size]`.
    pub(crate) fn logits(&self, tape: &Tape, adapters: &Adapters, hidden: &Node) -> Node {
        self.head.forward(tape, hidden, adapters.unembed.as_ref())
    }
}
