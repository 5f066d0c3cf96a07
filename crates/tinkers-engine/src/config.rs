//! A model's shape, read from the `config.json` of its directory.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The shape of a decoder-only model, in the words of a Hugging Face `config.json`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ModelConfig {
    /// The family: `llama`, `qwen2` or `qwen3`.
    pub model_type: String,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; as many as query heads where absent.
    #[serde(default)]
    pub num_key_value_heads: Option<usize>,
    /// Numbers per head; `hidden_size / num_attention_heads` where absent.
    #[serde(default)]
    pub head_dim: Option<usize>,
    /// Added to the mean square before its root is taken.
    #[serde(default = "default_eps")]
    pub rms_norm_eps: f32,
    /// Longest sequence in tokens.
    #[serde(default = "default_positions")]
    pub max_position_embeddings: usize,
    /// Base of the rotary frequencies.
    #[serde(default)]
    pub rope_theta: Option<f64>,
    /// Rotary scaling of older files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeParameters>,
    /// Rotary parameters of newer files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_parameters: Option<RopeParameters>,
    /// Whether the unembedding is the embedding.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// The MLP's activation; only `silu` is known.
    #[serde(default = "default_act")]
    pub hidden_act: String,
    /// Sliding windows are refused, so that a model that needs them does not quietly compute something else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub use_sliding_window: bool,
    /// Tokens that end a text.
    #[serde(default)]
    pub eos_token_id: Option<TokenIds>,
}

/// How rotary frequencies are made.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct RopeParameters {
    /// `default` or `llama3`.
    #[serde(default, alias = "type")]
    pub rope_type: Option<String>,
    /// Base of the frequencies, in newer files.
    #[serde(default)]
    pub rope_theta: Option<f64>,
    /// `llama3`: how much low frequencies are slowed.
    #[serde(default)]
    pub factor: Option<f64>,
    /// `llama3`: wavelengths longer than the old context over this are slowed in full.
    #[serde(default)]
    pub low_freq_factor: Option<f64>,
    /// `llama3`: wavelengths shorter than the old context over this are left alone.
    #[serde(default)]
    pub high_freq_factor: Option<f64>,
    /// `llama3`: the context of the first training.
    #[serde(default)]
    pub original_max_position_embeddings: Option<f64>,
}

/// One token id or several.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub enum TokenIds {
    /// A single id.
    One(u32),
    /// Any of these.
    Many(Vec<u32>),
}

impl ModelConfig {
    /// Reads a `config.json` and refuses what this engine does not compute.
    ///
    /// # Errors
    /// [`Error::Model`] naming the field that is missing, malformed or not supported.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let config: Self = serde_json::from_slice(json)
            .map_err(|e| Error::Model(format!("config.json cannot be read: {e}")))?;
        config.check()?;
        Ok(config)
    }

    /// Key and value heads.
    #[must_use]
    pub fn kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Numbers per head.
    #[must_use]
    pub fn head_width(&self) -> usize {
        self.head_dim
            .unwrap_or(self.hidden_size / self.num_attention_heads)
    }

    /// Whether queries and keys are normalised per head.
    #[must_use]
    pub fn normalises_heads(&self) -> bool {
        self.model_type == "qwen3"
    }

    /// Tokens that end a text.
    #[must_use]
    pub fn end_tokens(&self) -> Vec<u32> {
        match &self.eos_token_id {
            None => Vec::new(),
            Some(TokenIds::One(id)) => vec![*id],
            Some(TokenIds::Many(ids)) => ids.clone(),
        }
    }

    /// The rotary frequencies of one head, in radians per position.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "head widths are small integers")]
    pub fn frequencies(&self) -> Vec<f64> {
        let rope = self.rope();
        let theta = rope.rope_theta.or(self.rope_theta).unwrap_or(10_000.0);
        let width = self.head_width();
        (0..width / 2)
            .map(|i| theta.powf(-2.0 * i as f64 / width as f64))
            .map(|frequency| rope.scaled(frequency))
            .collect()
    }

    fn rope(&self) -> RopeParameters {
        self.rope_parameters
            .clone()
            .or_else(|| self.rope_scaling.clone())
            .unwrap_or_default()
    }

    fn check(&self) -> Result<()> {
        let bad = |what: String| Err(Error::Model(format!("config.json: {what}")));
        if !matches!(self.model_type.as_str(), "llama" | "qwen2" | "qwen3") {
            return bad(format!(
                "model_type is {:?}; llama, qwen2 and qwen3 are supported",
                self.model_type
            ));
        }
        for (name, value) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.kv_heads()),
            ("max_position_embeddings", self.max_position_embeddings),
        ] {
            if value == 0 {
                return bad(format!("{name} is zero"));
            }
        }
        if !self.num_attention_heads.is_multiple_of(self.kv_heads()) {
            return bad("num_attention_heads is no multiple of num_key_value_heads".into());
        }
        if self.head_width() == 0 || !self.head_width().is_multiple_of(2) {
            return bad(format!(
                "head_dim is {}, expected an even number",
                self.head_width()
            ));
        }
        if self.hidden_act != "silu" {
            return bad(format!(
                "hidden_act is {:?}, only silu is supported",
                self.hidden_act
            ));
        }
        if self.use_sliding_window {
            return bad("use_sliding_window is not supported".into());
        }
        match self.rope().rope_type.as_deref() {
            None | Some("default" | "llama3") => Ok(()),
            Some(other) => bad(format!("rope type {other:?} is not supported")),
        }
    }
}

impl RopeParameters {
    /// Llama 3's rule: long wavelengths are stretched, short ones kept, those between blended.
    fn scaled(&self, frequency: f64) -> f64 {
        if self.rope_type.as_deref() != Some("llama3") {
            return frequency;
        }
        let factor = self.factor.unwrap_or(8.0);
        let low = self.low_freq_factor.unwrap_or(1.0);
        let high = self.high_freq_factor.unwrap_or(4.0);
        let context = self.original_max_position_embeddings.unwrap_or(8192.0);
        let wavelength = 2.0 * std::f64::consts::PI / frequency;
        if wavelength < context / high {
            return frequency;
        }
        if wavelength > context / low {
            return frequency / factor;
        }
        let blend = (context / wavelength - low) / (high - low);
        (1.0 - blend) * frequency / factor + blend * frequency
    }
}

fn default_eps() -> f32 {
    1e-6
}

fn default_positions() -> usize {
    2048
}

fn default_act() -> String {
    "silu".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(extra: &str) -> Vec<u8> {
        format!(
            r#"{{"model_type":"qwen3","vocab_size":10,"hidden_size":8,"intermediate_size":16,
            "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"torch_dtype":"bfloat16"{extra}}}"#
        )
        .into_bytes()
    }

    #[test]
    fn absent_fields_take_the_usual_values() {
        let config = ModelConfig::from_json(&json("")).unwrap();
        assert_eq!(config.head_width(), 2);
        assert_eq!(config.frequencies(), vec![1.0]);
        assert!(config.end_tokens().is_empty());
        let config =
            ModelConfig::from_json(&json(r#","eos_token_id":[3,4],"head_dim":4"#)).unwrap();
        assert_eq!(config.end_tokens(), vec![3, 4]);
        assert_eq!(config.frequencies(), vec![1.0, 0.01]);
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        for (extra, name) in [
            (r#","hidden_act":"gelu""#, "hidden_act"),
            (r#","use_sliding_window":true"#, "use_sliding_window"),
            (r#","rope_scaling":{"type":"yarn"}"#, "yarn"),
            (r#","head_dim":3"#, "head_dim"),
        ] {
            let error = ModelConfig::from_json(&json(extra))
                .unwrap_err()
                .to_string();
            assert!(error.contains(name), "{error}");
        }
        let error = ModelConfig::from_json(b"{}").unwrap_err().to_string();
        assert!(error.contains("model_type"), "{error}");
    }

    #[test]
    fn llama3_keeps_fast_frequencies_and_slows_slow_ones() {
        let rope = RopeParameters {
            rope_type: Some("llama3".into()),
            factor: Some(32.0),
            ..RopeParameters::default()
        };
        assert_eq!(rope.scaled(1.0), 1.0);
        assert_eq!(rope.scaled(1e-6), 1e-6 / 32.0);
        let middle = rope.scaled(2.0 * std::f64::consts::PI / 4096.0);
        assert!(middle > 2.0 * std::f64::consts::PI / 4096.0 / 32.0);
    }
}
