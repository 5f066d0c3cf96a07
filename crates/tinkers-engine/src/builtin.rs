//! The base model that the crate carries inside itself: `tinkers/tiny`.
//!
//! A token is a byte; id 256 ends a text, and 257 to 263 are unused. Its weights were made by the example `pretrain`
//! from the King James Bible, so it knows one book and one style.

use crate::config::ModelConfig;
use crate::error::Result;
use crate::model::Model;
use crate::weights::Weights;

/// Its name as a base model.
pub const NAME: &str = "tinkers/tiny";

/// The token that ends a text.
pub const END_OF_TEXT: u32 = 256;

const CONFIG: &[u8] = include_bytes!("../assets/tiny/config.json");

const WEIGHTS: &[u8] = include_bytes!("../assets/tiny/model.safetensors");

/// The model itself.
///
/// # Errors
/// [`crate::Error::Model`] where the weights in the crate do not fit its shape, which a test excludes.
pub fn model() -> Result<Model> {
    Model::new(config(), weights()?)
}

pub(crate) fn weights() -> Result<Weights> {
    Weights::from_bytes(WEIGHTS)
}

/// Its shape.
#[must_use]
pub fn config() -> ModelConfig {
    ModelConfig::from_json(CONFIG).expect("the built-in config is one that this engine reads")
}
