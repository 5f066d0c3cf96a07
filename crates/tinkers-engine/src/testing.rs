//! Small models with random weights for unit tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::ModelConfig;
use crate::lora::{AdapterConfig, Lora};
use crate::model::Model;
use crate::ops::matrix::Matrix;
use crate::ops::tape::Node;
use crate::pretrain::weight_shapes;
use crate::rng::Rng;
use crate::weights::Weights;

/// Returns the config of a small model of the model family `family`. The model has two layers. Its dimensions are all different.
pub(crate) fn config(family: &str) -> ModelConfig {
    let json = format!(
        r#"{{"model_type": "{family}", "vocab_size": 23, "hidden_size": 12, "intermediate_size": 20,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6,
        "rms_norm_eps": 1e-5, "max_position_embeddings": 600, "tie_word_embeddings": {}}}"#,
        family == "qwen3"
    );
    ModelConfig::from_json(json.as_bytes()).unwrap()
}

/// Returns random weights and their shapes, by name. For Qwen 2, queries, keys and values have biases.
pub(crate) fn weights(config: &ModelConfig) -> BTreeMap<String, (Vec<f32>, [usize; 2])> {
    let mut rng = Rng::new(42);
    let mut all = BTreeMap::new();
    for (name, shape) in weight_shapes(config) {
        let (rows, cols) = match shape[..] {
            [cols] => (1, cols),
            [rows, cols] => (rows, cols),
            _ => unreachable!("weights have one dimension or two"),
        };
        let mut data = rng.uniform(rows * cols, 0.7);
        if rows == 1 {
            data.iter_mut().for_each(|x| *x += 1.0);
        }
        let has_bias = ["q_proj", "k_proj", "v_proj"]
            .iter()
            .any(|part| name.contains(part));
        if config.model_type == "qwen2" && has_bias {
            let bias = rng.uniform(rows, 0.5);
            all.insert(name.replace(".weight", ".bias"), (bias, [1, rows]));
        }
        all.insert(name, (data, [rows, cols]));
    }
    all
}

/// Builds a model of the model family `family` with [`config`] and [`weights`].
pub(crate) fn model(family: &str) -> Arc<Model> {
    let config = config(family);
    let nodes = weights(&config)
        .into_iter()
        .map(|(name, (data, [rows, cols]))| (name, Node::constant(Matrix::new(data, rows, cols))));
    let weights = Weights::from_nodes(nodes.collect());
    Arc::new(Model::new(config, weights).unwrap())
}

/// Returns an adapter of all modules. Its B matrices are not zero, so that the A matrices get gradients.
pub(crate) fn lora(config: &ModelConfig) -> Lora {
    let shape = AdapterConfig {
        rank: 3,
        seed: 5,
        train_attn: true,
        train_mlp: true,
        train_unembed: true,
    };
    let mut lora = Lora::new(shape, config).unwrap();
    let mut rng = Rng::new(6);
    for param in lora.params_mut() {
        if param.name.contains("lora_B") {
            let noise = rng.uniform(param.data().len(), 0.05);
            param.value.data_mut().copy_from_slice(&noise);
        }
    }
    lora
}
