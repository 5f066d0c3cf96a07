//! Low-rank adapters: which layers have one, how they start, and how they join a pass.

use serde::{Deserialize, Serialize};

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::ops::linear::LowRank;
use crate::ops::matrix::Matrix;
use crate::ops::tape::{Node, Tape};
use crate::rng::Rng;

/// The numerator of every adapter's scale, `ALPHA / rank`: the value that the field has settled on, so that a learning
/// rate means the same at any rank.
pub const ALPHA: f32 = 32.0;

/// The highest rank of an adapter.
pub const MAX_RANK: usize = 1024;

/// The shape of an adapter, as a caller asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct LoraConfig {
    /// Inner width of each adapter, at least 1.
    pub rank: usize,
    /// Where the random halves come from; 0 where the caller gave none.
    pub seed: u64,
    /// Whether queries, keys, values and the attention's output are adapted.
    pub train_attn: bool,
    /// Whether gate, up and down projections are adapted.
    pub train_mlp: bool,
    /// Whether the unembedding is adapted.
    pub train_unembed: bool,
}

/// The linear layers that can have an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
    Unembed,
}

/// The numbers of one adapter of a model; plain data, so that it can be copied, saved and stepped without the tensor
/// library.
#[derive(Clone, Debug)]
pub struct Lora {
    config: LoraConfig,
    params: Vec<Param>,
}

/// One trained matrix.
#[derive(Clone, Debug)]
pub struct Param {
    pub(crate) name: String,
    pub(crate) value: Matrix,
}

/// The adapters of one block.
#[derive(Clone, Debug, Default)]
pub(crate) struct LayerAdapters {
    pub(crate) q: Option<LowRank>,
    pub(crate) k: Option<LowRank>,
    pub(crate) v: Option<LowRank>,
    pub(crate) o: Option<LowRank>,
    pub(crate) gate: Option<LowRank>,
    pub(crate) up: Option<LowRank>,
    pub(crate) down: Option<LowRank>,
}

/// All adapters of a model, as parts of a computation.
#[derive(Clone, Debug)]
pub(crate) struct Adapters {
    pub(crate) layers: Vec<LayerAdapters>,
    pub(crate) unembed: Option<LowRank>,
}

impl LoraConfig {
    /// Refuses a shape that trains nothing.
    ///
    /// # Errors
    /// [`Error::Input`] naming the field.
    pub fn check(&self) -> Result<()> {
        if self.rank == 0 || self.rank > MAX_RANK {
            return Err(Error::input(
                "lora_config.rank",
                format!("is {}, expected 1 to {MAX_RANK}", self.rank),
            ));
        }
        if !(self.train_attn || self.train_mlp || self.train_unembed) {
            return Err(Error::input(
                "lora_config",
                "trains nothing, expected at least one of train_attn, train_mlp, train_unembed",
            ));
        }
        Ok(())
    }

    /// The adapted layers in their fixed order, with outputs and inputs of each.
    fn parts(&self, model: &ModelConfig) -> Vec<(Option<usize>, Part, [usize; 2])> {
        let (outer, inner) = (model.hidden_size, model.intermediate_size);
        let heads = model.num_attention_heads * model.head_width();
        let kv = model.kv_heads() * model.head_width();
        let mut parts = Vec::new();
        for layer in 0..model.num_hidden_layers {
            if self.train_attn {
                parts.push((Some(layer), Part::Q, [heads, outer]));
                parts.push((Some(layer), Part::K, [kv, outer]));
                parts.push((Some(layer), Part::V, [kv, outer]));
                parts.push((Some(layer), Part::O, [outer, heads]));
            }
            if self.train_mlp {
                parts.push((Some(layer), Part::Gate, [inner, outer]));
                parts.push((Some(layer), Part::Up, [inner, outer]));
                parts.push((Some(layer), Part::Down, [outer, inner]));
            }
        }
        if self.train_unembed {
            parts.push((None, Part::Unembed, [model.vocab_size, outer]));
        }
        parts
    }
}

impl Param {
    /// Its name in a checkpoint, as the PEFT library spells it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Rows and columns.
    #[must_use]
    pub fn shape(&self) -> [usize; 2] {
        [self.value.rows(), self.value.cols()]
    }

    /// Its numbers, row after row.
    #[must_use]
    pub fn data(&self) -> &[f32] {
        self.value.data()
    }
}

impl Part {
    fn module(self) -> &'static str {
        match self {
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::O => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
            Self::Unembed => "lm_head",
        }
    }

    fn path(self, layer: Option<usize>) -> String {
        match layer {
            Some(layer) => format!("base_model.model.model.layers.{layer}.{}", self.module()),
            None => format!("base_model.model.{}", self.module()),
        }
    }
}

impl Lora {
    /// A fresh adapter: random `a`, zero `b`, so that it changes nothing yet.
    ///
    /// `a` is spread evenly within `1 / sqrt(inputs)`; each matrix draws from a stream of its own of the seed, so that
    /// one seed gives the same weights on every machine.
    ///
    /// # Errors
    /// As [`LoraConfig::check`].
    #[expect(clippy::cast_precision_loss, reason = "widths are small integers")]
    pub fn new(config: LoraConfig, model: &ModelConfig) -> Result<Self> {
        config.check()?;
        let mut params = Vec::new();
        for (index, (layer, part, [outputs, inputs])) in config.parts(model).into_iter().enumerate()
        {
            let path = part.path(layer);
            let limit = 1.0 / (inputs as f32).sqrt();
            let mut rng = Rng::stream(config.seed, index as u64);
            params.push(Param {
                name: format!("{path}.lora_A.weight"),
                value: Matrix::new(
                    rng.uniform(config.rank * inputs, limit),
                    config.rank,
                    inputs,
                ),
            });
            params.push(Param {
                name: format!("{path}.lora_B.weight"),
                value: Matrix::new(vec![0.0; outputs * config.rank], outputs, config.rank),
            });
        }
        Ok(Self { config, params })
    }

    /// An adapter that was saved.
    pub(crate) fn from_parts(config: LoraConfig, params: Vec<Param>) -> Self {
        Self { config, params }
    }

    /// Whether it fits `model`: the matrices that its shape asks for there, in name and size.
    ///
    /// # Errors
    /// [`Error::Model`] naming the first that differs.
    pub fn fits(&self, model: &ModelConfig) -> Result<()> {
        let wanted = Self::new(self.config.clone(), model)?;
        if wanted.params.len() != self.params.len() {
            return Err(Error::Model(format!(
                "the adapter has {} matrices, the model takes {}",
                self.params.len(),
                wanted.params.len()
            )));
        }
        for (have, want) in self.params.iter().zip(&wanted.params) {
            if have.name != want.name || have.shape() != want.shape() {
                return Err(Error::Model(format!(
                    "the adapter has {} of {:?}, the model takes {} of {:?}",
                    have.name,
                    have.shape(),
                    want.name,
                    want.shape()
                )));
            }
        }
        Ok(())
    }

    /// The shape it was made with.
    #[must_use]
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// Its matrices in a fixed order, `a` before `b` of each layer.
    #[must_use]
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Its matrices, to be changed in place; shapes and names stay.
    pub(crate) fn params_mut(&mut self) -> &mut [Param] {
        &mut self.params
    }

    /// The adapter without gradients.
    pub(crate) fn frozen(&self, model: &ModelConfig) -> Adapters {
        self.assemble(model, |param| Node::constant(param.value.clone()))
            .0
    }

    /// The adapter with gradients on `tape`, and its matrices there in the order of [`Self::params`].
    pub(crate) fn trainable(&self, model: &ModelConfig, tape: &Tape) -> (Adapters, Vec<Node>) {
        self.assemble(model, |param| tape.leaf(param.value.clone()))
    }

    #[expect(clippy::cast_precision_loss, reason = "ranks are small integers")]
    fn assemble(
        &self,
        model: &ModelConfig,
        node: impl Fn(&Param) -> Node,
    ) -> (Adapters, Vec<Node>) {
        let mut adapters = Adapters::none(model);
        let scale = ALPHA / self.config.rank as f32;
        let nodes: Vec<Node> = self.params.iter().map(node).collect();
        for ((layer, part, _), pair) in self.config.parts(model).iter().zip(nodes.chunks_exact(2)) {
            *adapters.slot(*layer, *part) = Some(LowRank {
                a: pair[0].clone(),
                b: pair[1].clone(),
                scale,
            });
        }
        (adapters, nodes)
    }
}

impl Adapters {
    /// No adapter anywhere: the base model.
    pub(crate) fn none(model: &ModelConfig) -> Self {
        Self {
            layers: vec![LayerAdapters::default(); model.num_hidden_layers],
            unembed: None,
        }
    }

    fn slot(&mut self, layer: Option<usize>, part: Part) -> &mut Option<LowRank> {
        let Some(layer) = layer.map(|index| &mut self.layers[index]) else {
            return &mut self.unembed;
        };
        match part {
            Part::Q => &mut layer.q,
            Part::K => &mut layer.k,
            Part::V => &mut layer.v,
            Part::O => &mut layer.o,
            Part::Gate => &mut layer.gate,
            Part::Up => &mut layer.up,
            Part::Down => &mut layer.down,
            Part::Unembed => &mut self.unembed,
        }
    }
}
