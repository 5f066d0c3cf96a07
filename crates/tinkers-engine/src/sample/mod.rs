//! Sampling. The prompt is prefilled once; then all samples of a request are decoded as a batch.

mod logits;
mod prompt;
mod stop;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::lora::{Adapters, Lora};
use crate::model::{KvCache, Model};
use crate::ops::tape::Tape;
use crate::ops::target::log_sum_exp;
use crate::rng::Rng;
use crate::text::Text;

pub use logits::SamplingOptions;
pub use prompt::{PromptScoreOptions, PromptScores};
pub use stop::StopConditions;
#[cfg(feature = "fuzz")]
pub use stop::stop_ends;

/// The `(token, log-probability)` pairs of one position, most likely first.
pub type TopK = Vec<(u32, f32)>;

/// The maximum size in bytes of the KV cache of a batch of samples. The cache of a single sample may be larger.
const MAX_CACHE_BYTES: usize = 1 << 30;

/// A job that draws one or more samples for a prompt.
#[derive(Clone, Debug)]
pub struct SampleJob {
    /// The prompt tokens; at least one.
    pub prompt: Vec<u32>,
    /// The number of samples.
    pub samples: usize,
    /// The maximum number of tokens per sample. `None` to use the rest of the context.
    pub max_tokens: Option<usize>,
    /// The parameters of token sampling.
    pub sampling: SamplingOptions,
    /// The random seed. The same job with the same seed gives the same tokens.
    pub seed: u64,
    /// The stop tokens and stop texts.
    pub stop: StopConditions,
    /// The choice of the log-probabilities of the prompt to return.
    pub prompt_options: PromptScoreOptions,
    /// The number of most likely tokens to return for each sampled position.
    pub top_k_log_probs: usize,
}

/// A sampled sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct GeneratedSample {
    /// The sampled tokens, including the stop token or the last token of a stop text.
    pub tokens: Vec<u32>,
    /// The log-probabilities of the sampled tokens at temperature 1.
    pub log_probs: Vec<f32>,
    /// The most likely tokens at each sampled position, if requested.
    pub top_k: Vec<TopK>,
    /// Whether a stop token or stop text ended the sample; `false` if the sample reached its maximum length.
    pub stopped: bool,
}

/// The result of a [`SampleJob`].
#[derive(Clone, Debug)]
pub struct SampleResult {
    /// The samples.
    pub samples: Vec<GeneratedSample>,
    /// The requested log-probabilities of the prompt.
    pub prompt: PromptScores,
}

/// A base model with an optional adapter to sample from.
#[derive(Clone, Debug)]
pub struct Sampler {
    base: Arc<Model>,
    adapters: Arc<Adapters>,
    text: Arc<Text>,
}

impl Sampler {
    /// Creates a sampler with a copy of the current weights of `lora`. Later training does not affect the sampler.
    #[must_use]
    pub fn new(base: Arc<Model>, lora: Option<&Lora>, text: Arc<Text>) -> Self {
        let adapters = match lora {
            None => Adapters::none(base.config()),
            Some(lora) => lora.frozen(base.config()),
        };
        Self {
            base,
            adapters: Arc::new(adapters),
            text,
        }
    }

    /// Runs a sample job on the threads of the current pool.
    ///
    /// Samples are decoded in batches whose KV cache fits in 1 GB.
    ///
    /// # Errors
    /// Returns [`Error::Input`] with the field that is invalid for the model, and [`Error::Closed`] after `cancelled` is set.
    pub fn run(&self, job: &SampleJob, cancelled: &AtomicBool) -> Result<SampleResult> {
        self.run_within(job, cancelled, MAX_CACHE_BYTES)
    }

    fn run_within(
        &self,
        job: &SampleJob,
        cancelled: &AtomicBool,
        max_cache_bytes: usize,
    ) -> Result<SampleResult> {
        let max_tokens = self.check(job)?;
        let len = job.prompt.len();
        let mut cache = KvCache::new(self.base.config(), len);
        let (prompt, logits) =
            prompt::prefill(&self.base, &self.adapters, job, &mut cache, cancelled)?;

        let each = KvCache::bytes_of(self.base.config(), len + max_tokens);
        let batch_size = (max_cache_bytes / each.max(1)).max(1);
        let mut states: Vec<State> = (0..job.samples)
            .map(|index| State::new(job.seed, index))
            .collect();
        for batch in states.chunks_mut(batch_size) {
            for state in &mut *batch {
                self.advance(state, &logits, job, max_tokens)?;
            }
            self.extend(batch, &cache, job, max_tokens, cancelled)?;
        }
        Ok(SampleResult {
            samples: states.into_iter().map(|state| state.sample).collect(),
            prompt,
        })
    }

    /// Decodes a batch of samples from their first tokens to their ends. `prefilled` is the KV cache of the prompt.
    fn extend(
        &self,
        states: &mut [State],
        prefilled: &KvCache,
        job: &SampleJob,
        max_tokens: usize,
        cancelled: &AtomicBool,
    ) -> Result<()> {
        let capacity = job.prompt.len() + max_tokens;
        let mut active: Vec<usize> = (0..states.len()).collect();
        active.retain(|&index| !states[index].ended);
        // Sequence i of the cache belongs to sample rows[i]. Ended samples are removed once they are half of the cache.
        let mut rows = active.clone();
        let mut cache = prefilled.select(&vec![0; rows.len()], capacity);
        while !active.is_empty() {
            if cancelled.load(Ordering::Relaxed) {
                return Err(Error::Closed);
            }
            if active.len() * 2 <= rows.len() {
                let kept: Vec<usize> = (0..rows.len())
                    .filter(|&row| !states[rows[row]].ended)
                    .collect();
                cache = cache.select(&kept, capacity);
                rows = active.clone();
            }
            let last = rows.iter().map(|&index| states[index].last());
            let last: Arc<[u32]> = last.collect();
            let hidden = self.base.extend(&self.adapters, &last, &mut cache);
            let logits = self.base.logits(&Tape::default(), &self.adapters, &hidden);
            let width = logits.value().cols();
            for (row, &index) in rows.iter().enumerate() {
                if !states[index].ended {
                    let logits = &logits.value().data()[row * width..][..width];
                    self.advance(&mut states[index], logits, job, max_tokens)?;
                }
            }
            active.retain(|&index| !states[index].ended);
        }
        Ok(())
    }

    /// Samples the next token of one sample and checks whether the sample ends.
    fn advance(
        &self,
        state: &mut State,
        logits: &[f32],
        job: &SampleJob,
        max_tokens: usize,
    ) -> Result<()> {
        let token = job.sampling.sample(logits, &mut state.rng);
        let total = log_sum_exp(logits);
        let sample = &mut state.sample;
        sample.tokens.push(token);
        sample.log_probs.push(logits[token as usize] - total);
        if job.top_k_log_probs > 0 {
            sample
                .top_k
                .push(logits::most_likely(logits, job.top_k_log_probs, total));
        }
        let context = &job.prompt[job.prompt.len().saturating_sub(stop::LEAD_TOKENS)..];
        sample.stopped = job.stop.ends(context, &sample.tokens, &self.text)?;
        state.ended = sample.stopped || sample.tokens.len() >= max_tokens;
        Ok(())
    }

    /// Checks a sample job against the model and returns the maximum number of tokens per sample.
    fn check(&self, job: &SampleJob) -> Result<usize> {
        let config = self.base.config();
        let (context, len) = (config.max_position_embeddings, job.prompt.len());
        if len == 0 || len > context {
            return Err(Error::input(
                "prompt",
                format!("has {len} tokens, expected 1 to {context}"),
            ));
        }
        if let Some(token) = job
            .prompt
            .iter()
            .find(|&&t| t as usize >= config.vocab_size)
        {
            let expected = config.vocab_size;
            return Err(Error::input(
                "prompt",
                format!("contains token {token}, expected ids below {expected}"),
            ));
        }
        if job.samples == 0 {
            return Err(Error::input("num_samples", "is 0, expected at least 1"));
        }
        // The last sampled token is not fed back, so one token fits after a prompt that fills the context.
        let room = (context - len).max(1);
        match job.max_tokens {
            None => Ok(room),
            Some(wanted) if wanted == 0 || wanted > room => Err(Error::input(
                "sampling_params.max_tokens",
                format!("is {wanted}, expected 1 to {room} after this prompt"),
            )),
            Some(wanted) => Ok(wanted),
        }
    }
}

/// The state of one sample during decoding.
#[derive(Debug)]
struct State {
    sample: GeneratedSample,
    rng: Rng,
    ended: bool,
}

impl State {
    fn new(seed: u64, index: usize) -> Self {
        Self {
            sample: GeneratedSample {
                tokens: Vec::new(),
                log_probs: Vec::new(),
                top_k: Vec::new(),
                stopped: false,
            },
            rng: Rng::stream(seed, index as u64),
            ended: false,
        }
    }

    fn last(&self) -> u32 {
        *self
            .sample
            .tokens
            .last()
            .expect("the first token is sampled before the first step")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn sampled_tokens_do_not_depend_on_the_batch_size() {
        let base = testing::model("qwen3");
        let lora = testing::lora(base.config());
        let each = KvCache::bytes_of(base.config(), 3 + 20);
        let sampler = Sampler::new(base, Some(&lora), Arc::new(Text::Bytes));
        let job = SampleJob {
            prompt: vec![3, 1, 4],
            samples: 7,
            max_tokens: Some(20),
            sampling: SamplingOptions::default(),
            seed: 5,
            stop: StopConditions::tokens(vec![9]),
            prompt_options: PromptScoreOptions::default(),
            top_k_log_probs: 0,
        };
        let tokens = |bytes: usize| {
            let result = sampler.run_within(&job, &AtomicBool::new(false), bytes);
            let samples = result.unwrap().samples.into_iter();
            samples.map(|sample| sample.tokens).collect::<Vec<_>>()
        };
        let one_batch = tokens(MAX_CACHE_BYTES);
        assert_eq!(one_batch.len(), 7);
        assert_eq!(tokens(3 * each), one_batch);
        assert_eq!(tokens(0), one_batch);
    }

    #[test]
    fn kv_cache_size_matches_the_estimate() {
        let config = testing::config("llama");
        let cache = KvCache::new(&config, 1).select(&[0, 0, 0], 17);
        assert_eq!(cache.bytes(), 3 * KvCache::bytes_of(&config, 17));
    }
}
