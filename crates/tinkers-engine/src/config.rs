//! The config of a model, read from its `config.json`.

use crate::error::{Error, Result};
use crate::fields::Fields;
use crate::weights::Weights;

/// The name of the config file in error messages.
const FILE: &str = "config.json";

/// The config of a decoder-only model, with the field names of a Hugging Face `config.json`.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// The model family: `llama`, `qwen2` or `qwen3`.
    pub model_type: String,
    /// The number of token ids.
    pub vocab_size: usize,
    /// The width of the residual stream.
    pub hidden_size: usize,
    /// The inner width of the MLP.
    pub intermediate_size: usize,
    /// The number of transformer blocks.
    pub num_hidden_layers: usize,
    /// The number of query heads.
    pub num_attention_heads: usize,
    /// The number of key and value heads. `None` stands for the number of query heads.
    pub num_key_value_heads: Option<usize>,
    /// The width of a head. `None` stands for `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    /// The epsilon of the RMS normalisation.
    pub rms_norm_eps: f32,
    /// The maximum sequence length in tokens.
    pub max_position_embeddings: usize,
    /// The parameters of rotary position embeddings.
    pub rope: RopeParameters,
    /// Whether the unembedding shares the weight of the embedding.
    pub tie_word_embeddings: bool,
    /// The ids of the tokens that end a sample.
    pub eos_token_id: Vec<u32>,
}

/// The parameters of rotary position embeddings.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeParameters {
    /// The base of the rotary frequencies.
    pub rope_theta: f64,
    /// The scaling of low rotary frequencies. `None` for rotary embeddings of type `default`.
    pub scaling: Option<Llama3Scaling>,
}

/// The parameters of the scaling of rotary frequencies with the type `llama3`.
#[derive(Clone, Debug, PartialEq)]
pub struct Llama3Scaling {
    /// The number by which low rotary frequencies are divided.
    pub factor: f64,
    /// Rotary frequencies with a wavelength (in tokens) above `original_max_position_embeddings / low_freq_factor` are divided by
    /// `factor`.
    pub low_freq_factor: f64,
    /// Rotary frequencies with a wavelength (in tokens) below `original_max_position_embeddings / high_freq_factor` are unchanged.
    pub high_freq_factor: f64,
    /// The context length, in tokens, for which the rotary frequencies were chosen before they were scaled.
    pub original_max_position_embeddings: f64,
}

impl ModelConfig {
    /// Parses a `config.json`.
    ///
    /// Fields that are missing or `null` have the defaults of the Transformers library. If a setting is present in an old and a new
    /// spelling, the new one takes precedence, separately for each field: `rope_parameters` over `rope_scaling` and `rope_theta`,
    /// and `rope_type` over `type`.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Model`] with the field that is missing, malformed or not supported.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let fields = Fields::parse(FILE, json)?;
        let model_type = fields.string("model_type")?.unwrap_or_default();
        if !matches!(model_type.as_str(), "llama" | "qwen2" | "qwen3") {
            let what = format!("is {model_type:?}, expected llama, qwen2 or qwen3");
            return Err(fields.error("model_type", &what));
        }
        let positions = if model_type == "llama" { 2048 } else { 32_768 };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the engine computes in f32"
        )]
        let eps = fields.number("rms_norm_eps")?.unwrap_or(1e-6) as f32;
        let config = Self {
            model_type,
            vocab_size: fields.required("vocab_size")?,
            hidden_size: fields.required("hidden_size")?,
            intermediate_size: fields.required("intermediate_size")?,
            num_hidden_layers: fields.required("num_hidden_layers")?,
            num_attention_heads: fields.required("num_attention_heads")?,
            num_key_value_heads: fields.integer("num_key_value_heads")?,
            head_dim: fields.integer("head_dim")?,
            rms_norm_eps: eps,
            max_position_embeddings: fields
                .integer("max_position_embeddings")?
                .unwrap_or(positions),
            rope: RopeParameters::read(&fields)?,
            tie_word_embeddings: fields.boolean("tie_word_embeddings")?.unwrap_or(false),
            eos_token_id: fields.token_ids("eos_token_id")?,
        };
        refuse_unsupported(&fields)?;
        config.check()?;
        Ok(config)
    }

    /// Returns the number of key and value heads.
    #[must_use]
    pub fn kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Returns the width of an attention head.
    #[must_use]
    pub fn head_width(&self) -> usize {
        self.head_dim
            .unwrap_or(self.hidden_size / self.num_attention_heads)
    }

    /// Returns whether the model applies RMS normalisation to query and key heads, as Qwen 3 models do.
    #[must_use]
    pub fn normalises_heads(&self) -> bool {
        self.model_type == "qwen3"
    }

    /// Returns the rotary frequencies of a head, in radians per position.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "head widths are small integers")]
    pub fn frequencies(&self) -> Vec<f64> {
        let width = self.head_width();
        (0..width / 2)
            .map(|i| self.rope.rope_theta.powf(-2.0 * i as f64 / width as f64))
            .map(|frequency| match &self.rope.scaling {
                None => frequency,
                Some(scaling) => scaling.scaled(frequency),
            })
            .collect()
    }

    /// Derives the head widths that `config.json` omits. They follow from the shapes of the weights.
    pub(crate) fn infer_widths(&mut self, weights: &Weights) -> Result<()> {
        let rows = |name: &str| weights.rows(&format!("model.layers.0.self_attn.{name}.weight"));
        let divide = |rows: Option<usize>, by: usize| {
            let rows = rows.filter(|rows| rows.is_multiple_of(by))?;
            Some(rows / by).filter(|result| *result > 0)
        };
        self.head_dim = self
            .head_dim
            .or(divide(rows("q_proj"), self.num_attention_heads));
        let kv_heads = divide(rows("k_proj"), self.head_width());
        self.num_key_value_heads = self.num_key_value_heads.or(kv_heads);
        self.check()
    }

    fn check(&self) -> Result<()> {
        let error = |name: &str, what: &str| Error::Model(format!("{FILE}: {name} {what}"));
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
                return Err(error(name, "is 0, expected at least 1"));
            }
        }
        let (heads, kv_heads) = (self.num_attention_heads, self.kv_heads());
        if !heads.is_multiple_of(kv_heads) {
            let what = format!("is {kv_heads}, expected a divisor of num_attention_heads, {heads}");
            return Err(error("num_key_value_heads", &what));
        }
        if self.head_width() == 0 || !self.head_width().is_multiple_of(2) {
            let what = format!("is {}, expected an even number", self.head_width());
            return Err(error("head_dim", &what));
        }
        Ok(())
    }
}

/// Refuses settings that this engine does not support although they would change the computation.
fn refuse_unsupported(fields: &Fields) -> Result<()> {
    let activation = fields.string("hidden_act")?;
    if activation
        .as_deref()
        .is_some_and(|name| !matches!(name, "silu" | "swish"))
    {
        let what = format!("is {:?}, expected silu", activation.unwrap_or_default());
        return Err(fields.error("hidden_act", &what));
    }
    if fields.boolean("use_sliding_window")? == Some(true) {
        return Err(fields.error("use_sliding_window", "is true, which is not supported"));
    }
    if fields
        .strings("layer_types")?
        .iter()
        .any(|kind| kind != "full_attention")
    {
        return Err(fields.error(
            "layer_types",
            "contains other kinds than full_attention, which are not supported",
        ));
    }
    if fields.has("quantization_config") {
        return Err(fields.error(
            "quantization_config",
            "is set, expected weights that are not quantized",
        ));
    }
    Ok(())
}

impl RopeParameters {
    fn read(config: &Fields) -> Result<Self> {
        // The objects in which rotary parameters are looked up, in the order of precedence.
        let objects: Vec<Fields> = ["rope_parameters", "rope_scaling"]
            .into_iter()
            .filter_map(|name| config.object(name).transpose())
            .collect::<Result<_>>()?;
        for object in &objects {
            if let Some(name) = object.objects().next() {
                return Err(object.error(
                    name,
                    "is an object, but separate parameters for kinds of layers are not supported",
                ));
            }
        }
        let number = |name: &str| {
            let found = objects
                .iter()
                .map(|object| object.number(name))
                .chain([config.number(name)]);
            Ok::<_, Error>(
                found
                    .collect::<Result<Vec<_>>>()?
                    .into_iter()
                    .flatten()
                    .next(),
            )
        };
        if number("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
            return Err(config.error("partial_rotary_factor", "is not 1, which is not supported"));
        }
        let mut kind = None;
        for object in &objects {
            for name in ["rope_type", "type"] {
                let found = object.string(name)?;
                kind = kind.or(found.map(|found| (object, name, found)));
            }
        }
        let scaling = match kind {
            None => None,
            Some((_, _, kind)) if kind == "default" => None,
            Some((_, _, kind)) if kind == "llama3" => Some(Llama3Scaling {
                factor: number("factor")?.unwrap_or(8.0),
                low_freq_factor: number("low_freq_factor")?.unwrap_or(1.0),
                high_freq_factor: number("high_freq_factor")?.unwrap_or(4.0),
                original_max_position_embeddings: number("original_max_position_embeddings")?
                    .unwrap_or(8192.0),
            }),
            Some((object, name, kind)) => {
                let what = format!("is {kind:?}, expected default or llama3");
                return Err(object.error(name, &what));
            }
        };
        Ok(Self {
            rope_theta: number("rope_theta")?.unwrap_or(10_000.0),
            scaling,
        })
    }
}

impl Llama3Scaling {
    /// Returns the scaled rotary frequency. Frequencies with long wavelengths are divided by `factor`, frequencies with short
    /// wavelengths are unchanged, and frequencies in between are interpolated.
    fn scaled(&self, frequency: f64) -> f64 {
        let context = self.original_max_position_embeddings;
        let (low, high) = (self.low_freq_factor, self.high_freq_factor);
        let wavelength = 2.0 * std::f64::consts::PI / frequency;
        if wavelength < context / high {
            return frequency;
        }
        if wavelength > context / low {
            return frequency / self.factor;
        }
        let blend = (context / wavelength - low) / (high - low);
        (1.0 - blend) * frequency / self.factor + blend * frequency
    }
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

    fn read(extra: &str) -> ModelConfig {
        ModelConfig::from_json(&json(extra)).unwrap()
    }

    #[test]
    fn missing_config_fields_take_the_defaults_of_transformers() {
        let config = read("");
        assert_eq!(config.head_width(), 2);
        assert_eq!(config.frequencies(), vec![1.0]);
        assert_eq!(config.max_position_embeddings, 32_768);
        assert!(config.eos_token_id.is_empty() && !config.tie_word_embeddings);
        let config = read(r#","eos_token_id":[3,4],"head_dim":4"#);
        assert_eq!(config.eos_token_id, [3, 4]);
        assert_eq!(config.frequencies(), vec![1.0, 0.01]);
    }

    #[test]
    fn null_config_fields_take_the_defaults() {
        let nulls = [
            "head_dim",
            "rms_norm_eps",
            "max_position_embeddings",
            "rope_theta",
            "rope_scaling",
            "rope_parameters",
            "tie_word_embeddings",
            "hidden_act",
            "use_sliding_window",
            "layer_types",
            "quantization_config",
            "eos_token_id",
        ];
        let nulls: String = nulls.map(|name| format!(r#","{name}":null"#)).concat();
        assert_eq!(format!("{:?}", read(&nulls)), format!("{:?}", read("")));
        let inner = r#","rope_scaling":{"rope_type":null,"factor":null}"#;
        assert_eq!(read(inner).rope, read("").rope);
    }

    #[test]
    fn newer_spelling_of_a_config_field_takes_precedence() {
        let llama3 = |rope: &str| read(rope).rope;
        let expected = RopeParameters {
            rope_theta: 5e5,
            scaling: Some(Llama3Scaling {
                factor: 32.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 8192.0,
            }),
        };
        for rope in [
            r#","rope_theta":500000,"rope_scaling":{"type":"llama3","rope_type":"llama3","factor":32}"#,
            r#","rope_theta":500000,"rope_scaling":{"type":"mrope","rope_type":"llama3","factor":32}"#,
            r#","rope_parameters":{"rope_type":"llama3","rope_theta":5e5,"factor":32.0}"#,
            r#","rope_theta":1,"rope_scaling":{"type":"yarn","factor":2},
                "rope_parameters":{"rope_type":"llama3","rope_theta":5e5,"factor":32.0}"#,
            r#","rope_scaling":{"type":"llama3","factor":32},"rope_parameters":{"rope_theta":5e5}"#,
            r#","torch_dtype":"float16","dtype":"float16","rope_theta":5e5,
                "rope_scaling":{"type":"llama3","factor":32},"rope_parameters":null"#,
        ] {
            assert_eq!(llama3(rope), expected, "{rope}");
        }
    }

    #[test]
    fn error_names_the_unsupported_config_setting() {
        for (extra, name) in [
            (r#","hidden_act":"gelu""#, "hidden_act is \"gelu\""),
            (r#","use_sliding_window":true"#, "use_sliding_window"),
            (
                r#","layer_types":["full_attention","sliding_attention"]"#,
                "layer_types",
            ),
            (
                r#","quantization_config":{"bits":4}"#,
                "quantization_config",
            ),
            (r#","partial_rotary_factor":0.5"#, "partial_rotary_factor"),
            (
                r#","rope_scaling":{"type":"yarn"}"#,
                "rope_scaling.type is \"yarn\"",
            ),
            (
                r#","rope_parameters":{"full_attention":{}}"#,
                "rope_parameters.full_attention",
            ),
            (r#","rope_theta":"big""#, "rope_theta is \"big\""),
            (r#","head_dim":3"#, "head_dim"),
            (r#","head_dim":0"#, "head_dim"),
            (r#","rms_norm_eps":"x""#, "rms_norm_eps"),
            (r#","eos_token_id":"</s>""#, "eos_token_id"),
            (r#","eos_token_id":[1,null]"#, "eos_token_id"),
        ] {
            let error = ModelConfig::from_json(&json(extra))
                .unwrap_err()
                .to_string();
            assert!(error.contains(&format!("config.json: {name}")), "{error}");
        }
        for (text, name) in [
            ("{}", "model_type"),
            (r#"{"model_type":"llama"}"#, "vocab_size"),
        ] {
            let error = ModelConfig::from_json(text.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn llama3_rope_scaling_divides_only_low_frequencies() {
        let rope = Llama3Scaling {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192.0,
        };
        assert_eq!(rope.scaled(1.0), 1.0);
        assert_eq!(rope.scaled(1e-6), 1e-6 / 32.0);
        let middle = rope.scaled(2.0 * std::f64::consts::PI / 4096.0);
        assert!(middle > 2.0 * std::f64::consts::PI / 4096.0 / 32.0);
    }
}
