//! A test that compares a forward-backward pass with a reference model. The reference uses a tensor library with automatic
//! differentiation.

use std::collections::BTreeMap;

use candle_core::{D, Device, Result, Tensor, Var};

use super::*;
use crate::adamw::AdamW;
use crate::config::ModelConfig;
use crate::lora::ALPHA;
use crate::testing;

/// A reference model that is built from operations of candle, a tensor library. Its adapters are variables for which candle
/// computes gradients.
struct Reference {
    config: ModelConfig,
    weights: BTreeMap<String, Tensor>,
    vars: BTreeMap<String, Var>,
}

impl Reference {
    fn new(config: &ModelConfig, lora: &Lora) -> Self {
        let tensor = |data: &[f32], shape: [usize; 2]| {
            Tensor::from_vec(data.to_vec(), &shape[..], &Device::Cpu).unwrap()
        };
        let weights = testing::weights(config).into_iter();
        let vars = lora.params().iter().map(|p| {
            let var = Var::from_tensor(&tensor(p.data(), p.shape())).unwrap();
            (p.name().to_owned(), var)
        });
        Self {
            config: config.clone(),
            weights: weights
                .map(|(name, (data, shape))| (name, tensor(&data, shape)))
                .collect(),
            vars: vars.collect(),
        }
    }

    fn linear(&self, x: &Tensor, name: &str, weight: &str) -> Result<Tensor> {
        let mut y = x.matmul(&self.weights[weight].t()?)?;
        if let Some(bias) = self.weights.get(&weight.replace(".weight", ".bias")) {
            y = y.broadcast_add(bias)?;
        }
        let var = |half: &str| &self.vars[&format!("base_model.model.{name}.{half}.weight")];
        let (a, b) = (var("lora_A"), var("lora_B"));
        let scale = f64::from(ALPHA) / a.dim(0)? as f64;
        y + (x.matmul(&a.t()?)?.matmul(&b.t()?)? * scale)?
    }

    fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
        let root = (mean + f64::from(self.config.rms_norm_eps))?.sqrt()?;
        x.broadcast_div(&root)?.broadcast_mul(&self.weights[name])
    }

    /// Applies rotary embeddings to `x` of shape `[heads, len, width]`.
    fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let (_, len, width) = x.dims3()?;
        let frequencies = self.config.frequencies();
        let angles: Vec<f64> = (0..len)
            .flat_map(|at| frequencies.iter().map(move |f| at as f64 * f))
            .collect();
        let table = |f: fn(f64) -> f64| {
            let values = angles.iter().map(|a| f(*a) as f32).collect::<Vec<_>>();
            Tensor::from_vec(values, (1, len, width / 2), &Device::Cpu)
        };
        let (cos, sin) = (table(f64::cos)?, table(f64::sin)?);
        let a = x.narrow(2, 0, width / 2)?;
        let b = x.narrow(2, width / 2, width / 2)?;
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        Tensor::cat(&[first, second], 2)
    }

    fn attention(&self, x: &Tensor, layer: usize) -> Result<Tensor> {
        let (heads, kv) = (self.config.num_attention_heads, self.config.kv_heads());
        let (len, width) = (x.dim(0)?, self.config.head_width());
        let part = |name: &str, heads: usize| {
            let path = format!("model.layers.{layer}.self_attn.{name}_proj");
            let y = self.linear(x, &path, &format!("{path}.weight"))?;
            let mut y = y.reshape((len, heads, width))?;
            if self.config.normalises_heads() && name != "v" {
                y = self.norm(
                    &y,
                    &format!("model.layers.{layer}.self_attn.{name}_norm.weight"),
                )?;
            }
            y.transpose(0, 1)?.contiguous()
        };
        let q = self.rotate(&part("q", heads)?)?;
        let spread = |t: Tensor| {
            let t = t.unsqueeze(1)?.broadcast_as((kv, heads / kv, len, width))?;
            t.reshape((heads, len, width))
        };
        let k = spread(self.rotate(&part("k", kv)?)?)?;
        let v = spread(part("v", kv)?)?;
        let hidden = |i: usize| if i % len > i / len { -1e30f32 } else { 0.0 };
        let mask: Vec<f32> = (0..len * len).map(hidden).collect();
        let mask = Tensor::from_vec(mask, (1, len, len), &Device::Cpu)?;
        let scores = (q.matmul(&k.transpose(1, 2)?)? / (width as f64).sqrt())?;
        let scores = scores.broadcast_add(&mask)?;
        let e = scores
            .broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?
            .exp()?;
        let p = e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?;
        let mixed = p
            .matmul(&v)?
            .transpose(0, 1)?
            .reshape((len, heads * width))?;
        let path = format!("model.layers.{layer}.self_attn.o_proj");
        self.linear(&mixed, &path, &format!("{path}.weight"))
    }

    fn mlp(&self, x: &Tensor, layer: usize) -> Result<Tensor> {
        let part = |x: &Tensor, name: &str| {
            let path = format!("model.layers.{layer}.mlp.{name}_proj");
            self.linear(x, &path, &format!("{path}.weight"))
        };
        let gate = part(x, "gate")?;
        let opened = (&gate / (gate.neg()?.exp()? + 1.0)?)?;
        part(&(opened * part(x, "up")?)?, "down")
    }

    /// Computes the log-probability of the target token at each position.
    fn log_probs(&self, tokens: &[u32], targets: &[u32]) -> Result<Tensor> {
        let ids = Tensor::new(tokens, &Device::Cpu)?;
        let mut x = self.weights["model.embed_tokens.weight"].index_select(&ids, 0)?;
        for layer in 0..self.config.num_hidden_layers {
            let norm = |name: &str| format!("model.layers.{layer}.{name}.weight");
            let normed = self.norm(&x, &norm("input_layernorm"))?;
            x = (&x + self.attention(&normed, layer)?)?;
            let normed = self.norm(&x, &norm("post_attention_layernorm"))?;
            x = (&x + self.mlp(&normed, layer)?)?;
        }
        let x = self.norm(&x, "model.norm.weight")?;
        let head = match self.config.tie_word_embeddings {
            true => "model.embed_tokens.weight",
            false => "lm_head.weight",
        };
        let logits = self.linear(&x, "lm_head", head)?;
        let total = logits.exp()?.sum_keepdim(D::Minus1)?.log()?;
        let targets = Tensor::new(targets, &Device::Cpu)?.unsqueeze(1)?;
        logits
            .broadcast_sub(&total)?
            .gather(&targets, 1)?
            .flatten_all()
    }
}

#[test]
fn training_passes_agree_with_automatic_differentiation() {
    for family in ["llama", "qwen2", "qwen3"] {
        let base = testing::model(family);
        let lora = testing::lora(base.config());
        let reference = Reference::new(base.config(), &lora);
        let optimizer = AdamW::new(lora.params());
        let mut trainable = TrainableModel::from_parts(base, lora, optimizer);
        // Two sequences of different lengths, so that one is padded.
        let texts: [&[u32]; 2] = [&[3, 1, 4, 1, 5, 9, 2, 6, 5], &[22, 0, 7, 7, 13]];
        let weights = |len: usize| (0..len).map(|i| 0.5 + i as f32 * 0.25).collect::<Vec<_>>();
        let examples = texts.map(|text| Example {
            tokens: text[..text.len() - 1].to_vec(),
            targets: text[1..].iter().copied().map(Some).collect(),
            loss_inputs: LossInputs::Weights(weights(text.len() - 1)),
        });
        let threads = Threads::new(2).unwrap();
        let result = trainable
            .pass(
                &threads,
                &examples,
                &LossFunction::CrossEntropy,
                Mode::ForwardBackward,
            )
            .unwrap();

        let mut total: Option<Tensor> = None;
        for (text, got) in texts.iter().zip(&result.log_probs) {
            let len = text.len() - 1;
            let p = reference.log_probs(&text[..len], &text[1..]).unwrap();
            let want = p.to_vec1::<f32>().unwrap();
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want).abs() < 2e-5, "{family}: {got} {want}");
            }
            let weights = Tensor::new(weights(len), &Device::Cpu).unwrap();
            let loss = (p.neg().unwrap() * weights).unwrap().sum_all().unwrap();
            total = Some(total.map_or(loss.clone(), |sum| (sum + loss).unwrap()));
        }
        let wanted = total.unwrap().backward().unwrap();
        let grads = trainable.grads.as_ref().unwrap();
        for (param, got) in trainable.lora.params().iter().zip(grads) {
            let want = wanted.get(&reference.vars[param.name()]).unwrap();
            let want = want.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let size = want.iter().fold(0f32, |m, x| m.max(x.abs()));
            assert!(size > 1e-4, "{family}: no gradient for {}", param.name());
            for (got, want) in got.iter().zip(&want) {
                let apart = (got - want).abs();
                assert!(
                    apart < 1e-3 * size,
                    "{family} {}: {got} {want}",
                    param.name()
                );
            }
        }
    }
}
