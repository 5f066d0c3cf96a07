//! Sampling of one text for each prompt.

use std::fmt;

use anyhow::{Context, Result};
use serde::Serialize;
use tinkers::prelude::{SamplingClient, StopReason};

use super::dataset::Dataset;

/// The sampling temperature. It is low enough for coherent text, and high enough to avoid repetition.
const TEMPERATURE: f64 = 0.7;

/// A sampled text. Its JSON form is only the text.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Sample {
    text: String,
    #[serde(skip)]
    is_truncated: bool,
}

impl Sample {
    /// Creates a sample. `is_truncated` is true if the sample ended at the token limit.
    pub(crate) fn new(text: String, is_truncated: bool) -> Self {
        Self { text, is_truncated }
    }
}

/// Appends an ellipsis if the text is truncated.
impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.is_truncated { "…" } else { "" };
        write!(f, "{}{end}", self.text)
    }
}

/// Samples one text per prompt, concurrently. The same seed gives the same texts.
pub(crate) async fn sample_prompts(
    sampler: &SamplingClient,
    dataset: &Dataset,
    seed: u64,
) -> Result<Vec<Sample>> {
    let mut pending = Vec::new();
    for prompt in &dataset.prompts {
        let sample = sampler
            .sample(dataset.tokenizer.encode(prompt)?)
            .max_tokens(dataset.tokenizer.sample_length())
            .temperature(TEMPERATURE)
            .seed(seed)
            .num_samples(1)
            .send();
        pending.push(sample);
    }
    let mut texts = Vec::new();
    for sample in pending {
        let response = sample.await?;
        let sequence = response
            .sequences
            .first()
            .context("the sampling response has no sequences")?;
        texts.push(Sample::new(
            dataset.tokenizer.decode(&sequence.tokens)?,
            sequence.stop_reason == StopReason::Length,
        ));
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncated_text_is_displayed_with_an_ellipsis() {
        let truncated = Sample::new("the childr".to_owned(), true);
        assert_eq!(truncated.to_string(), "the childr…");
        assert_eq!(serde_json::to_string(&truncated).unwrap(), "\"the childr\"");
        let complete = Sample::new("the end.".to_owned(), false);
        assert_eq!(complete.to_string(), "the end.");
    }
}
