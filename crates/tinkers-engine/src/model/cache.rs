//! The KV cache for sampling.

use rayon::prelude::*;

use crate::config::ModelConfig;
use crate::ops::attention::Geometry;
use crate::ops::matrix::Matrix;
use crate::ops::tape::Node;

/// The minimum number of multiplications per thread when attention over the cache is computed. Below this number, a further thread
/// costs more time than it saves.
const MIN_PARALLEL_WORK: usize = 1 << 20;

/// The attention keys and values of several sequences of equal length.
#[derive(Debug)]
pub(crate) struct KvCache {
    layers: Vec<Layer>,
    sequences: usize,
    capacity: usize,
    len: usize,
    shape: Geometry,
}

/// The keys and values of one layer: `capacity` rows for each sequence. A row contains the values of all heads.
#[derive(Debug)]
struct Layer {
    k: Vec<f32>,
    v: Vec<f32>,
}

impl KvCache {
    /// Creates an empty cache for one sequence of at most `capacity` tokens.
    pub(crate) fn new(config: &ModelConfig, capacity: usize) -> Self {
        let shape = Geometry {
            queries: 0,
            past: 0,
            heads: config.num_attention_heads,
            kv_heads: config.kv_heads(),
            width: config.head_width(),
        };
        let empty = || vec![0.0; capacity * shape.kv_heads * shape.width];
        let layers = (0..config.num_hidden_layers).map(|_| Layer {
            k: empty(),
            v: empty(),
        });
        Self {
            layers: layers.collect(),
            sequences: 1,
            capacity,
            len: 0,
            shape,
        }
    }

    /// Returns the memory in bytes that a cache for one sequence of `capacity` tokens occupies.
    pub(crate) fn bytes_of(config: &ModelConfig, capacity: usize) -> usize {
        let row = config.kv_heads() * config.head_width();
        let floats = 2 * config.num_hidden_layers * row;
        capacity.saturating_mul(floats * size_of::<f32>())
    }

    /// Returns the memory that the cache occupies, in bytes.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        let floats = self
            .layers
            .iter()
            .map(|layer| layer.k.len() + layer.v.len());
        floats.sum::<usize>() * size_of::<f32>()
    }

    /// Copies the sequences with the indices `chosen` into a new cache with a capacity of `capacity` tokens per sequence.
    pub(crate) fn select(&self, chosen: &[usize], capacity: usize) -> Self {
        let row = self.row();
        let copy = |from: &[f32]| {
            let mut to = vec![0f32; chosen.len() * capacity * row];
            for (to, &index) in to.chunks_exact_mut(capacity * row).zip(chosen) {
                let start = index * self.capacity * row;
                to[..self.len * row].copy_from_slice(&from[start..start + self.len * row]);
            }
            to
        };
        let layers = self.layers.iter().map(|layer| Layer {
            k: copy(&layer.k),
            v: copy(&layer.v),
        });
        Self {
            layers: layers.collect(),
            sequences: chosen.len(),
            capacity,
            len: self.len,
            shape: self.shape,
        }
    }

    /// Returns the number of sequences.
    pub(crate) fn sequences(&self) -> usize {
        self.sequences
    }

    /// Returns the length of each sequence in tokens.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Increases the length of each sequence by `new` positions. Must be called after every layer has stored the keys and values of
    /// these positions.
    pub(super) fn advance(&mut self, new: usize) {
        self.len += new;
    }

    /// Returns the layer `index` of the cache, for a forward call that adds `new` positions to each sequence.
    pub(super) fn layer(&mut self, index: usize, new: usize) -> LayerCache<'_> {
        LayerCache {
            capacity: self.capacity,
            shape: Geometry {
                queries: new,
                past: self.len,
                ..self.shape
            },
            layer: &mut self.layers[index],
        }
    }

    fn row(&self) -> usize {
        self.shape.kv_heads * self.shape.width
    }
}

/// One layer of a KV cache during a forward call, which adds new positions to each cached sequence.
#[derive(Debug)]
pub(super) struct LayerCache<'a> {
    layer: &'a mut Layer,
    capacity: usize,
    shape: Geometry,
}

impl LayerCache<'_> {
    /// Stores the new keys and values. Then computes the attention of the new queries over all stored keys and values.
    pub(super) fn attend(&mut self, q: &Matrix, k: &Matrix, v: &Matrix) -> Node {
        let row = self.shape.kv_heads * self.shape.width;
        let (new, past) = (self.shape.queries * row, self.shape.past * row);
        for (to, from) in [(&mut self.layer.k, k), (&mut self.layer.v, v)] {
            let to = to.chunks_exact_mut(self.capacity * row);
            for (to, from) in to.zip(from.data().chunks_exact(new)) {
                to[past..past + new].copy_from_slice(from);
            }
        }
        let per = self.shape.queries * self.shape.heads * self.shape.width;
        let mut out = vec![0f32; q.data().len()];
        // For short sequences, waking another thread takes longer than the computation.
        let together = MIN_PARALLEL_WORK / (per * (self.shape.past + 1)) + 1;
        out.par_chunks_exact_mut(per)
            .enumerate()
            .with_min_len(together)
            .for_each(|(index, out)| {
                let at = index * self.capacity * row;
                let (k, v) = (&self.layer.k[at..], &self.layer.v[at..]);
                self.shape
                    .attend(&q.data()[index * per..][..per], k, v, out);
            });
        Node::constant(Matrix::new(out, q.rows(), q.cols()))
    }
}
