//! What follows the prompts, before and after.

use anyhow::{Context, Result};
use tinkers::prelude::SamplingClient;

use super::material::Material;

/// Low enough for the model's habits to show, high enough not to go in circles.
const TEMPERATURE: f64 = 0.7;

/// What follows each prompt. All are under way at once; the same seed gives the same text.
pub(crate) async fn follow(
    sampler: &SamplingClient,
    material: &Material,
    seed: u64,
) -> Result<Vec<String>> {
    let mut under_way = Vec::new();
    for prompt in &material.prompts {
        let sample = sampler
            .sample(material.tokens.encode(prompt)?)
            .max_tokens(material.tokens.sample_length())
            .temperature(TEMPERATURE)
            .seed(seed)
            .num_samples(1)
            .send();
        under_way.push(sample);
    }
    let mut texts = Vec::new();
    for sample in under_way {
        let response = sample.await?;
        let sequence = response
            .sequences
            .first()
            .context("the server sampled nothing")?;
        texts.push(material.tokens.decode(&sequence.tokens)?);
    }
    Ok(texts)
}
