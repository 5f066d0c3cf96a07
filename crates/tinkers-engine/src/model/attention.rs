//! Grouped-query attention with rotary position embeddings, over complete sequences or a KV cache.

use std::sync::Arc;

use super::cache::LayerCache;
use super::linear::Linear;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::lora::LayerAdapters;
use crate::ops::attention::{Geometry, causal};
use crate::ops::norm::rms_norm;
use crate::ops::rope::{Angles, Positions, rotate};
use crate::ops::tape::{Node, Tape};
use crate::weights::Weights;

/// The keys and values to which the queries of a forward call attend.
#[derive(Debug)]
pub(super) enum Attend<'a> {
    /// Attends only to the keys and values that this forward call computes, without a cache. The call contains complete sequences.
    Whole,
    /// Attends to the keys and values in the cache and to those that this forward call computes. The call continues the cached
    /// sequences and records no gradients.
    Cached(LayerCache<'a>),
}

#[derive(Debug)]
pub(super) struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    norms: Option<HeadNorms>,
    heads: usize,
    kv_heads: usize,
    width: usize,
}

/// The RMS normalisation of query heads and key heads, which Qwen 3 models have.
#[derive(Debug)]
struct HeadNorms {
    q: Node,
    k: Node,
    eps: f32,
}

impl Attention {
    pub(super) fn new(config: &ModelConfig, weights: &mut Weights, prefix: &str) -> Result<Self> {
        let (heads, kv_heads) = (config.num_attention_heads, config.kv_heads());
        let (outer, width) = (config.hidden_size, config.head_width());
        let norms = if config.normalises_heads() {
            Some(HeadNorms {
                q: weights.take(&format!("{prefix}.q_norm.weight"), 1, width)?,
                k: weights.take(&format!("{prefix}.k_norm.weight"), 1, width)?,
                eps: config.rms_norm_eps,
            })
        } else {
            None
        };
        let mut linear = |name: &str, outputs, inputs| {
            Linear::new(weights, &format!("{prefix}.{name}"), outputs, inputs)
        };
        Ok(Self {
            q: linear("q_proj", heads * width, outer)?,
            k: linear("k_proj", kv_heads * width, outer)?,
            v: linear("v_proj", kv_heads * width, outer)?,
            o: linear("o_proj", outer, heads * width)?,
            norms,
            heads,
            kv_heads,
            width,
        })
    }

    pub(super) fn forward(
        &self,
        tape: &Tape,
        x: &Node,
        adapters: &LayerAdapters,
        (angles, at): (&Arc<Angles>, Positions),
        attend: Attend<'_>,
    ) -> Node {
        let mut q = self.q.forward(tape, x, adapters.q.as_ref());
        let mut k = self.k.forward(tape, x, adapters.k.as_ref());
        let v = self.v.forward(tape, x, adapters.v.as_ref());
        if let Some(norms) = &self.norms {
            q = norms.apply(tape, &q, &norms.q);
            k = norms.apply(tape, &k, &norms.k);
        }
        let q = rotate(tape, &q, angles, at);
        let k = rotate(tape, &k, angles, at);
        let mixed = match attend {
            Attend::Whole => causal(tape, &q, &k, &v, self.geometry(at.len)),
            Attend::Cached(mut cache) => cache.attend(q.value(), k.value(), v.value()),
        };
        self.o.forward(tape, &mixed, adapters.o.as_ref())
    }

    fn geometry(&self, queries: usize) -> Geometry {
        Geometry {
            queries,
            past: 0,
            heads: self.heads,
            kv_heads: self.kv_heads,
            width: self.width,
        }
    }
}

impl HeadNorms {
    fn apply(&self, tape: &Tape, x: &Node, weight: &Node) -> Node {
        let (rows, cols) = (x.value().rows(), x.value().cols());
        let width = weight.value().cols();
        let heads = x.reshaped(rows * cols / width, width);
        rms_norm(tape, &heads, weight, self.eps).reshaped(rows, cols)
    }
}
