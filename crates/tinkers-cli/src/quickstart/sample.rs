//! What follows the prompts, before and after.

use std::fmt;

use anyhow::{Context, Result};
use serde::Serialize;
use tinkers::prelude::{SamplingClient, StopReason};

use super::material::Material;

/// Low enough for the model's habits to show, high enough not to go in circles.
const TEMPERATURE: f64 = 0.7;

/// What followed a prompt. In JSON the text alone.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Sample {
    text: String,
    #[serde(skip)]
    is_cut: bool,
}

impl Sample {
    /// A text that is cut when it would have gone on.
    pub(crate) fn new(text: String, is_cut: bool) -> Self {
        Self { text, is_cut }
    }
}

/// For people: with dots where it is cut.
impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.is_cut { "…" } else { "" };
        write!(f, "{}{end}", self.text)
    }
}

/// What follows each prompt. All are under way at once; the same seed gives the same text.
pub(crate) async fn follow(
    sampler: &SamplingClient,
    material: &Material,
    seed: u64,
) -> Result<Vec<Sample>> {
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
        texts.push(Sample::new(
            material.tokens.decode(&sequence.tokens)?,
            sequence.stop_reason == StopReason::Length,
        ));
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_text_ends_in_dots_for_people_alone() {
        let cut = Sample::new("the childr".to_owned(), true);
        assert_eq!(cut.to_string(), "the childr…");
        assert_eq!(serde_json::to_string(&cut).unwrap(), "\"the childr\"");
        let whole = Sample::new("the end.".to_owned(), false);
        assert_eq!(whole.to_string(), "the end.");
    }
}
