//! The built-in base model, `tinkers/tiny`.
//!
//! A token is a byte; id 256 is the end of text, and ids 257 to 263 are unused. The example `pretrain` trained the weights
//! on the King James Bible, so the model knows only the style of that book.

use crate::config::ModelConfig;
use crate::error::Result;
use crate::model::Model;
use crate::weights::Weights;

/// The name of the built-in base model.
pub const NAME: &str = "tinkers/tiny";

/// The end-of-text token.
pub const END_OF_TEXT: u32 = 256;

const CONFIG: &[u8] = include_bytes!("../assets/tiny/config.json");

const WEIGHTS: &[u8] = include_bytes!("../assets/tiny/model.safetensors");

/// Loads the built-in model.
///
/// # Errors
/// Returns [`crate::Error::Model`] if the embedded weights do not match the config. A test ensures that they match.
pub fn model() -> Result<Model> {
    Model::new(config(), weights()?)
}

pub(crate) fn weights() -> Result<Weights> {
    Weights::from_bytes(WEIGHTS)
}

/// Returns the config of the built-in model.
#[must_use]
pub fn config() -> ModelConfig {
    ModelConfig::from_json(CONFIG).expect("the built-in config is valid")
}
