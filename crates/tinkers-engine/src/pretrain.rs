//! Pretraining of a base model from random weights. The built-in model was trained with this code.

use std::sync::Arc;

use half::f16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::adamw::{AdamW, AdamWParams};
use crate::builtin::END_OF_TEXT;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::lora::{Adapters, Param};
use crate::model::Model;
use crate::ops::matrix::Matrix;
use crate::ops::rope::Angles;
use crate::ops::tape::Node;
use crate::pass::{self, Sequence, Setup};
use crate::rng::Rng;
use crate::threads::Threads;
use crate::weights::Weights;

/// A base model during pretraining. All of its parameters are trained.
#[derive(Debug)]
pub struct Pretrainer {
    config: ModelConfig,
    params: Vec<Param>,
    shapes: Vec<Vec<usize>>,
    optimizer: AdamW,
    threads: Threads,
    angles: Arc<Angles>,
}

impl Pretrainer {
    /// Creates a model with random weights. The weights depend only on `seed`.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Panicked`] if threads cannot be started.
    #[expect(
        clippy::cast_precision_loss,
        reason = "layer counts are small integers"
    )]
    pub fn new(config: ModelConfig, seed: u64) -> Result<Self> {
        let depth = 1.0 / (2.0 * config.num_hidden_layers as f32).sqrt();
        let mut params = Vec::new();
        let mut shapes = Vec::new();
        for (index, (name, shape)) in weight_shapes(&config).into_iter().enumerate() {
            let count = shape.iter().product();
            let data = match shape.as_slice() {
                [_] => vec![1.0; count],
                [_, inputs] => {
                    // Uniform with a standard deviation of 1/sqrt(fan); smaller for layers that write to the residual stream.
                    let fan = if name.contains("embed") {
                        2500.0
                    } else {
                        *inputs as f32
                    };
                    let writes = name.contains("o_proj") || name.contains("down_proj");
                    let limit = (3.0 / fan).sqrt() * if writes { depth } else { 1.0 };
                    Rng::stream(seed, index as u64).uniform(count, limit)
                }
                _ => return Err(Error::Model(format!("{name} is not a vector or a matrix"))),
            };
            let rows = if shape.len() == 2 { shape[0] } else { 1 };
            params.push(Param {
                name,
                value: Matrix::new(data, rows, count / rows),
            });
            shapes.push(shape);
        }
        Ok(Self {
            angles: Model::angles(&config),
            config,
            optimizer: AdamW::new(&params),
            params,
            shapes,
            threads: Threads::new(0)?,
        })
    }

    /// Returns the number of parameters.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.params.iter().map(|p| p.data().len()).sum()
    }

    /// Takes an optimizer step on a batch of token sequences. Returns the loss before the step, in nats per predicted token.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Panicked`] if a token is outside of the vocabulary.
    pub fn step(&mut self, texts: &[&[u32]], with: &AdamWParams) -> Result<f64> {
        let (sequences, count) = sequences(texts);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            reason = "batches are far below 2^24 tokens"
        )]
        let share = (1.0 / count as f64) as f32;
        let mut grads: Vec<Vec<f32>> = self
            .params
            .iter()
            .map(|p| vec![0.0; p.data().len()])
            .collect();
        let outputs = pass::run(
            &self.threads,
            self.config.vocab_size,
            &|tape| self.setup(|value| tape.leaf(value)),
            &sequences,
            &|_, log_probs| (vec![-share; log_probs.len()], ()),
            &mut grads,
        )?;
        self.optimizer.step(&mut self.params, &grads, with);
        Ok(mean(outputs.iter().map(|o| o.log_probs.as_slice()), count))
    }

    /// Computes the loss on token sequences in nats per predicted token.
    ///
    /// # Errors
    /// Returns the errors of [`Self::step`].
    pub fn loss(&self, texts: &[&[u32]]) -> Result<f64> {
        let (sequences, count) = sequences(texts);
        let outputs = pass::run(
            &self.threads,
            self.config.vocab_size,
            &|_| {
                let mut setup = self.setup(Node::constant)?;
                setup.leaves.clear();
                Ok(setup)
            },
            &sequences,
            &|_, log_probs| (vec![0.0; log_probs.len()], ()),
            &mut [],
        )?;
        Ok(mean(outputs.iter().map(|o| o.log_probs.as_slice()), count))
    }

    /// Encodes the weights as a safetensors file of half-precision numbers.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Safetensors`] if the weights cannot be encoded.
    pub fn to_f16_file(&self) -> Result<Vec<u8>> {
        let halves: Vec<Vec<u8>> = self.params.iter().map(|p| f16_bytes(p.data())).collect();
        let params = self.params.iter().zip(&self.shapes).zip(&halves);
        let views = params.map(|((param, shape), half)| {
            let view = TensorView::new(Dtype::F16, shape.clone(), half)?;
            Ok((param.name.as_str(), view))
        });
        Ok(safetensors::serialize(
            views.collect::<Result<Vec<_>>>()?,
            None,
        )?)
    }

    fn setup(&self, node: impl Fn(Matrix) -> Node) -> Result<Setup> {
        let leaves: Vec<Node> = self.params.iter().map(|p| node(p.value.clone())).collect();
        let names = self.params.iter().map(|p| p.name.clone());
        let weights = Weights::from_nodes(names.zip(leaves.iter().cloned()).collect());
        let angles = Arc::clone(&self.angles);
        Ok(Setup {
            model: Arc::new(Model::with_angles(self.config.clone(), weights, angles)?),
            adapters: Adapters::none(&self.config),
            leaves,
        })
    }
}

fn f16_bytes(data: &[f32]) -> Vec<u8> {
    data.iter()
        .flat_map(|value| f16::from_f32(*value).to_le_bytes())
        .collect()
}

/// A learning rate schedule: a linear warmup, then a cosine decay to a tenth of the peak.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// The peak learning rate.
    pub peak: f64,
    /// The number of warmup steps.
    pub warmup: usize,
    /// The total number of steps.
    pub steps: usize,
}

impl Schedule {
    /// Returns the optimizer parameters of `step`, counted from 0.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "step counts are far below 2^53")]
    pub fn at(&self, step: usize) -> AdamWParams {
        let warmup = ((step + 1) as f64 / self.warmup as f64).min(1.0);
        let progress = step as f64 / self.steps as f64;
        let decay = 0.1 + 0.45 * (1.0 + (std::f64::consts::PI * progress).cos());
        AdamWParams {
            learning_rate: self.peak * warmup * decay,
            eps: 1e-8,
            weight_decay: 0.1,
            grad_clip_norm: 1.0,
            ..AdamWParams::default()
        }
    }
}

/// A tokenized text, split into training and held-out documents.
#[derive(Clone, Debug)]
pub struct Corpus {
    training: Vec<u32>,
    held_out: Vec<Vec<u32>>,
    seed: u64,
}

impl Corpus {
    /// Splits `text` into documents at blank lines, and appends the end-of-text token to each. Every twentieth document is held out.
    #[must_use]
    pub fn new(text: &[u8], seed: u64) -> Self {
        let mut corpus = Self {
            training: Vec::new(),
            held_out: Vec::new(),
            seed,
        };
        for (index, document) in documents(text).enumerate() {
            let tokens = document.iter().map(|&byte| u32::from(byte));
            let tokens = tokens.chain([END_OF_TEXT]);
            if index % 20 == 19 {
                corpus.held_out.push(tokens.collect());
            } else {
                corpus.training.extend(tokens);
            }
        }
        corpus
    }

    /// Returns the number of training tokens.
    #[must_use]
    pub fn training_len(&self) -> usize {
        self.training.len()
    }

    /// Returns the number of held-out tokens.
    #[must_use]
    pub fn held_out_len(&self) -> usize {
        self.held_out.iter().map(Vec::len).sum()
    }

    /// Returns `count` training sequences for one step. Each sequence has `len` tokens to predict. The sequences depend only on the
    /// seed of the corpus and on `step`.
    #[must_use]
    pub fn batch(&self, step: usize, count: usize, len: usize) -> Vec<&[u32]> {
        let mut rng = Rng::stream(self.seed ^ 0x7465_7874, step as u64);
        (0..count)
            .map(|_| {
                let start = rng.below(self.training.len() - len);
                &self.training[start..start + len + 1]
            })
            .collect()
    }

    /// Returns the first `count` held-out sequences. Each sequence has at most `len` tokens to predict.
    #[must_use]
    pub fn held_out(&self, len: usize, count: usize) -> Vec<&[u32]> {
        let pieces = self.held_out.iter().flat_map(|d| d.chunks(len + 1));
        pieces.filter(|piece| piece.len() > 1).take(count).collect()
    }
}

fn documents(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = rest.windows(2).position(|pair| pair == b"\n\n");
        let (document, after) = match end {
            Some(end) => (&rest[..end], &rest[end + 2..]),
            None => (rest, &rest[rest.len()..]),
        };
        rest = after;
        Some(document)
    })
    .filter(|document| !document.is_empty())
}

/// Returns the names and shapes of the model's weights in a fixed order.
pub(crate) fn weight_shapes(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let (outer, inner) = (config.hidden_size, config.intermediate_size);
    let width = config.head_width();
    let (heads, kv) = (
        config.num_attention_heads * width,
        config.kv_heads() * width,
    );
    let mut names = vec![(
        "model.embed_tokens.weight".to_owned(),
        vec![config.vocab_size, outer],
    )];
    for layer in 0..config.num_hidden_layers {
        let mut push = |name: &str, shape: Vec<usize>| {
            names.push((format!("model.layers.{layer}.{name}.weight"), shape));
        };
        push("input_layernorm", vec![outer]);
        push("self_attn.q_proj", vec![heads, outer]);
        push("self_attn.k_proj", vec![kv, outer]);
        push("self_attn.v_proj", vec![kv, outer]);
        push("self_attn.o_proj", vec![outer, heads]);
        if config.normalises_heads() {
            push("self_attn.q_norm", vec![width]);
            push("self_attn.k_norm", vec![width]);
        }
        push("post_attention_layernorm", vec![outer]);
        push("mlp.gate_proj", vec![inner, outer]);
        push("mlp.up_proj", vec![inner, outer]);
        push("mlp.down_proj", vec![outer, inner]);
    }
    names.push(("model.norm.weight".to_owned(), vec![outer]));
    if !config.tie_word_embeddings {
        names.push(("lm_head.weight".to_owned(), vec![config.vocab_size, outer]));
    }
    names
}

/// Converts texts to sequences for next-token prediction, and counts the target tokens. Skips texts of fewer than two tokens.
fn sequences(texts: &[&[u32]]) -> (Vec<Sequence>, usize) {
    let sequences: Vec<Sequence> = texts
        .iter()
        .filter(|text| text.len() > 1)
        .map(|text| Sequence {
            tokens: text[..text.len() - 1].to_vec(),
            targets: text[1..].to_vec(),
            per_row: 1,
        })
        .collect();
    let count = sequences.iter().map(|s| s.targets.len()).sum();
    (sequences, count)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "batches are far below 2^53 tokens"
)]
fn mean<'a>(log_probs: impl Iterator<Item = &'a [f32]>, count: usize) -> f64 {
    -log_probs.flatten().map(|&p| f64::from(p)).sum::<f64>() / count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = include_bytes!("../../tinkers-cli/data/newton-opticks.txt");

    fn small() -> ModelConfig {
        let mut config = crate::builtin::config();
        config.num_hidden_layers = 1;
        config.hidden_size = 32;
        config.intermediate_size = 48;
        config
    }

    fn run(seed: u64, steps: usize) -> (Vec<f64>, Vec<u8>) {
        let corpus = Corpus::new(&TEXT[..60_000], seed);
        let mut trainer = Pretrainer::new(small(), seed).unwrap();
        let schedule = Schedule {
            peak: 1e-2,
            warmup: 2,
            steps,
        };
        let losses = (0..steps).map(|step| {
            let texts = corpus.batch(step, 4, 64);
            trainer.step(&texts, &schedule.at(step)).unwrap()
        });
        (losses.collect(), trainer.to_f16_file().unwrap())
    }

    #[test]
    fn pretraining_is_deterministic_for_a_seed() {
        let (losses, file) = run(1, 30);
        assert!(losses[29] < 0.8 * losses[0], "{losses:?}");
        assert_eq!(run(1, 30), (losses, file.clone()));
        assert_ne!(run(2, 30).1, file);
        let weights = Weights::from_bytes(&file).unwrap();
        assert!(Model::new(small(), weights).is_ok());
    }

    #[test]
    fn held_out_documents_are_not_in_the_training_data() {
        let text: Vec<u8> = (0..60u8)
            .flat_map(|i| [i + 100, i + 100, i + 100, b'\n', b'\n'])
            .collect();
        let corpus = Corpus::new(&text, 1);
        let held_out: Vec<u32> = corpus.held_out(8, 99).concat();
        assert!(!held_out.is_empty());
        let training = &corpus.training;
        assert!(
            held_out
                .iter()
                .all(|t| *t == END_OF_TEXT || !training.contains(t))
        );
        assert_eq!(corpus.held_out_len() + corpus.training_len(), 60 * 4);
    }

    #[test]
    fn pretraining_learning_rate_warms_up_and_decays() {
        let schedule = Schedule {
            peak: 1.0,
            warmup: 10,
            steps: 100,
        };
        let rate = |step| schedule.at(step).learning_rate;
        assert!(rate(0) < 0.11 && rate(9) > 0.95);
        assert!(rate(50) < rate(20) && (rate(99) - 0.1).abs() < 0.01);
    }
}
