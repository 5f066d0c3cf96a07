//! Reads a model directory in the Hugging Face layout.

use std::path::Path;

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::fields::Fields;
use crate::text::Text;
use crate::weights::Weights;

/// The contents of a model directory: the config, the weights, the tokenizer and the end tokens.
#[derive(Debug)]
pub(crate) struct ModelFiles {
    pub(crate) config: ModelConfig,
    pub(crate) text: Text,
    pub(crate) weights: Weights,
    /// The ids of the tokens that end a sample.
    pub(crate) end_tokens: Vec<u32>,
}

impl ModelFiles {
    /// Reads the files of `dir`.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Model`] or [`Error::Tokenizer`] with the invalid file and field, and [`Error::Io`] if a file cannot be read.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let json = std::fs::read(&path).map_err(Error::io("cannot read", &path))?;
        let mut config = ModelConfig::from_json(&json)?;
        let text = Text::from_file(&dir.join("tokenizer.json"))?;
        let end_tokens = end_tokens(dir, &config, &text)?;
        let weights = Weights::from_dir(dir)?;
        config.infer_widths(&weights)?;
        Ok(Self {
            config,
            text,
            weights,
            end_tokens,
        })
    }
}

/// Collects the end tokens of all config files. Instruction-tuned models often list the end-of-turn token in one file and the
/// end-of-text token in another. Either of them ends a sample.
fn end_tokens(dir: &Path, config: &ModelConfig, text: &Text) -> Result<Vec<u32>> {
    let mut ids = config.eos_token_id.clone();
    if let Some(fields) = Fields::open(dir, "generation_config.json")? {
        ids.extend(fields.token_ids("eos_token_id")?);
    }
    for file in ["tokenizer_config.json", "special_tokens_map.json"] {
        let Some(fields) = Fields::open(dir, file)? else {
            continue;
        };
        let Some(token) = fields.token("eos_token")? else {
            continue;
        };
        match text.id(&token) {
            Some(id) => ids.push(id),
            None => tracing::warn!(
                file,
                token,
                "eos_token is not in tokenizer.json and is ignored"
            ),
        }
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}
