//! How what an engine gives is put before it is encoded.

use super::{Dialect, PromptLogprobs, Words};
use crate::engine::Outcome;

impl Dialect {
    /// The outcome as this server tells it.
    pub(crate) fn put(&self, mut outcome: Outcome) -> Outcome {
        match &mut outcome {
            Outcome::Sampled(sample) if self.prompt_logprobs == PromptLogprobs::FromSecond => {
                // The first token has none, so nothing is lost.
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
