//! LoRA adapters: target modules, initialisation, and their use in a forward pass.

use serde::{Deserialize, Serialize};

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::ops::linear::LowRank;
use crate::ops::matrix::Matrix;
use crate::ops::tape::{Node, Tape};
use crate::rng::Rng;

/// The LoRA alpha. The output of every adapter is scaled by `ALPHA / rank`, so that a learning rate suits adapters of all ranks.
pub const ALPHA: f32 = 32.0;

/// The highest rank of an adapter.
pub const MAX_RANK: usize = 1024;

/// The rank, seed and target modules of a LoRA adapter.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct AdapterConfig {
    /// The rank, from 1 to [`MAX_RANK`].
    pub rank: usize,
    /// The seed of the random initialisation of the A matrices.
    pub seed: u64,
    /// Whether the query, key, value and output projections are adapted.
    pub train_attn: bool,
    /// Whether the gate, up and down projections are adapted.
    pub train_mlp: bool,
    /// Whether the unembedding (`lm_head`) is adapted.
    pub train_unembed: bool,
}

/// A kind of linear layer that can have an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TargetModule {
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
    Unembed,
}

/// The trainable parameters of a LoRA adapter: one A matrix and one B matrix for each target module.
#[derive(Clone, Debug)]
pub struct Lora {
    config: AdapterConfig,
    params: Vec<Param>,
}

/// A named trainable matrix.
#[derive(Clone, Debug)]
pub struct Param {
    pub(crate) name: String,
    pub(crate) value: Matrix,
}

/// The adapters of one transformer block.
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

/// The adapters of a model, as nodes of the computation graph.
#[derive(Clone, Debug)]
pub(crate) struct Adapters {
    pub(crate) layers: Vec<LayerAdapters>,
    pub(crate) unembed: Option<LowRank>,
}

impl AdapterConfig {
    /// Checks that the rank is in range and that at least one group of layers is adapted.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Input`] with the invalid field.
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

    /// Returns the adapted layers in a fixed order. Each entry has the block index, the output width and the input width of the
    /// layer.
    fn target_modules(
        &self,
        model: &ModelConfig,
    ) -> Vec<(Option<usize>, TargetModule, [usize; 2])> {
        let (outer, inner) = (model.hidden_size, model.intermediate_size);
        let heads = model.num_attention_heads * model.head_width();
        let kv = model.kv_heads() * model.head_width();
        let mut target_modules = Vec::new();
        for layer in 0..model.num_hidden_layers {
            if self.train_attn {
                target_modules.push((Some(layer), TargetModule::Q, [heads, outer]));
                target_modules.push((Some(layer), TargetModule::K, [kv, outer]));
                target_modules.push((Some(layer), TargetModule::V, [kv, outer]));
                target_modules.push((Some(layer), TargetModule::O, [outer, heads]));
            }
            if self.train_mlp {
                target_modules.push((Some(layer), TargetModule::Gate, [inner, outer]));
                target_modules.push((Some(layer), TargetModule::Up, [inner, outer]));
                target_modules.push((Some(layer), TargetModule::Down, [outer, inner]));
            }
        }
        if self.train_unembed {
            target_modules.push((None, TargetModule::Unembed, [model.vocab_size, outer]));
        }
        target_modules
    }
}

impl Param {
    /// Returns the name of the matrix in a checkpoint. It is the name that the PEFT library uses.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the numbers of rows and columns of the matrix.
    #[must_use]
    pub fn shape(&self) -> [usize; 2] {
        [self.value.rows(), self.value.cols()]
    }

    /// Returns the values of the matrix in row-major order.
    #[must_use]
    pub fn data(&self) -> &[f32] {
        self.value.data()
    }
}

impl TargetModule {
    fn name(self) -> &'static str {
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
            Some(layer) => format!("base_model.model.model.layers.{layer}.{}", self.name()),
            None => format!("base_model.model.{}", self.name()),
        }
    }
}

impl Lora {
    /// Creates an adapter with random A matrices and zero B matrices. A new adapter does not change the output of the base model.
    ///
    /// The values of A are uniform in `±1 / sqrt(inputs)`. Each matrix has its own stream of random numbers, so a seed gives the
    /// same values on every machine.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`AdapterConfig::check`].
    #[expect(clippy::cast_precision_loss, reason = "widths are small integers")]
    pub fn new(config: AdapterConfig, model: &ModelConfig) -> Result<Self> {
        config.check()?;
        let mut params = Vec::new();
        for (index, (layer, part, [outputs, inputs])) in
            config.target_modules(model).into_iter().enumerate()
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

    /// Creates an adapter from the config and matrices of a checkpoint.
    pub(crate) fn from_parts(config: AdapterConfig, params: Vec<Param>) -> Self {
        Self { config, params }
    }

    /// Checks that the names and shapes of all matrices are those that `model` requires.
    ///
    /// # Errors
    /// Returns [`Error::Model`] with the first mismatch.
    pub fn check_fits(&self, model: &ModelConfig) -> Result<()> {
        let wanted = Self::new(self.config.clone(), model)?;
        if wanted.params.len() != self.params.len() {
            return Err(Error::Model(format!(
                "the adapter has {} matrices, expected {} for this model",
                self.params.len(),
                wanted.params.len()
            )));
        }
        for (have, want) in self.params.iter().zip(&wanted.params) {
            if have.name != want.name || have.shape() != want.shape() {
                return Err(Error::Model(format!(
                    "the adapter has {} of shape {:?}, expected {} of shape {:?}",
                    have.name,
                    have.shape(),
                    want.name,
                    want.shape()
                )));
            }
        }
        Ok(())
    }

    /// Returns the config of the adapter.
    #[must_use]
    pub fn config(&self) -> &AdapterConfig {
        &self.config
    }

    /// Returns the matrices in a fixed order, A before B for each layer.
    #[must_use]
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Returns the matrices, so that their values can be changed in place. The caller must not change shapes and names.
    pub(crate) fn params_mut(&mut self) -> &mut [Param] {
        &mut self.params
    }

    /// Builds the adapters as constants. Constants get no gradients.
    pub(crate) fn frozen(&self, model: &ModelConfig) -> Adapters {
        self.assemble(model, |param| Node::constant(param.value.clone()))
            .0
    }

    /// Builds the adapters as leaves of `tape`. Leaves get gradients. Also returns the leaf nodes in the order of [`Self::params`].
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
        for ((layer, part, _), pair) in self
            .config
            .target_modules(model)
            .iter()
            .zip(nodes.chunks_exact(2))
        {
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
    /// Returns a value without any adapters, with which the base model runs unchanged.
    pub(crate) fn none(model: &ModelConfig) -> Self {
        Self {
            layers: vec![LayerAdapters::default(); model.num_hidden_layers],
            unembed: None,
        }
    }

    fn slot(&mut self, layer: Option<usize>, part: TargetModule) -> &mut Option<LowRank> {
        let Some(layer) = layer.map(|index| &mut self.layers[index]) else {
            return &mut self.unembed;
        };
        match part {
            TargetModule::Q => &mut layer.q,
            TargetModule::K => &mut layer.k,
            TargetModule::V => &mut layer.v,
            TargetModule::O => &mut layer.o,
            TargetModule::Gate => &mut layer.gate,
            TargetModule::Up => &mut layer.up,
            TargetModule::Down => &mut layer.down,
            TargetModule::Unembed => &mut self.unembed,
        }
    }
}
