//! Adapts the outcomes of an engine to the dialect, before they are encoded.

use super::{Dialect, PromptLogprobs, Words};
use crate::engine::Outcome;

impl Dialect {
    /// Changes the outcome of an engine job to the form of the imitated server: its field and metric names and its list of prompt
    /// log-probabilities.
    pub(crate) fn adapt(&self, mut outcome: Outcome) -> Outcome {
        match &mut outcome {
            Outcome::Sampled(sample) if self.prompt_logprobs == PromptLogprobs::FromSecond => {
                // Removes the entry of the first token, which is always empty.
                if let Some(logprobs) = sample
                    .prompt_logprobs
                    .as_mut()
                    .filter(|all| !all.is_empty())
                {
                    logprobs.remove(0);
                }
            }
            Outcome::Pass(pass) if self.words == Words::SkyRl => {
                pass.metrics.clear();
                "scalar".clone_into(&mut pass.loss_fn_output_type);
            }
            Outcome::Step(step) if self.words == Words::SkyRl => {
                let all = std::mem::take(&mut step.metrics);
                let named = all.into_iter().map(|(name, value)| {
                    let name = name.split_once(':').map_or(name.as_str(), |(name, _)| name);
                    (format!("skyrl.ai/{name}"), value)
                });
                step.metrics = named.collect();
            }
            _ => {}
        }
        outcome
    }
}
