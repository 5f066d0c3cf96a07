//! Reads a model directory in the Hugging Face layout.

use std::path::Path;

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::fields::Fields;
use crate::text::Text;
use crate::weights::Weights;

/// The parts of a base model.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) config: ModelConfig,
    pub(crate) text: Text,
    pub(crate) weights: Weights,
    /// Tokens that end a text.
    pub(crate) end_tokens: Vec<u32>,
}

impl Parts {
    /// Reads the files of `dir`.
    ///
    /// # Errors
    /// [`Error::Model`] and [`Error::Tokenizer`] naming the file, and the field where one is at fault; [`Error::Io`].
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let json = std::fs::read(&path).map_err(Error::io("cannot read", &path))?;
        let mut config = ModelConfig::from_json(&json)?;
        let text = Text::from_file(&dir.join("tokenizer.json"))?;
        let end_tokens = end_tokens(dir, &config, &text)?;
        let weights = Weights::from_dir(dir)?;
        config.complete(&weights)?;
        Ok(Self {
            config,
            text,
            weights,
            end_tokens,
        })
    }
}

/// The end tokens that any file of the directory names. Instruction-tuned models often name the end of a turn in one file and
/// the end of a text in another, and either ends a sample.
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
                "eos_token is not in tokenizer.json and ends no sample"
            ),
        }
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}
