//! Sampling: one prefill of the prompt, then all samples of a request step by step together.

mod choose;
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

pub use choose::Choice;
pub use prompt::{PromptScores, PromptWishes};
pub use stop::Stop;
#[cfg(feature = "fuzz")]
pub use stop::stop_ends;

/// The `(token, log-probability)` pairs of one position, the most likely first.
pub type TopK = Vec<(u32, f32)>;

/// The most that keys and values of the samples that go together take up; a single sample has what it needs.
const CACHED_BYTES: usize = 1 << 30;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct SampleJob {
    /// The tokens to continue; at least one.
    pub prompt: Vec<u32>,
    /// How many continuations.
    pub samples: usize,
    /// Tokens of each at most; to the end of the context where absent.
    pub max_tokens: Option<usize>,
    /// How tokens are chosen.
    pub choice: Choice,
    /// Where chance comes from: the same job with the same seed gives the same tokens.
    pub seed: u64,
    /// What ends a sample.
    pub stop: Stop,
    /// What is wanted to know of the prompt.
    pub prompt_wishes: PromptWishes,
    /// How many of the most likely tokens are wanted at each sampled position.
    pub top_k_log_probs: usize,
}

/// One continuation.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its tokens, the one that stopped it included.
    pub tokens: Vec<u32>,
    /// Their log-probabilities under the untempered model.
    pub log_probs: Vec<f32>,
    /// The most likely tokens at each position, where wanted.
    pub top_k: Vec<TopK>,
    /// Whether a stop ended it, rather than its length.
    pub stopped: bool,
}

/// What comes out.
#[derive(Clone, Debug)]
pub struct SampleResult {
    /// One for each sample asked for.
    pub samples: Vec<Sample>,
    /// What was wanted to know of the prompt.
    pub prompt: PromptScores,
}

/// Weights to sample from: a base model with or without an adapter.
#[derive(Clone, Debug)]
pub struct Sampler {
    base: Arc<Model>,
    adapters: Arc<Adapters>,
    text: Arc<Text>,
}

impl Sampler {
    /// Samples from `base` as `lora` adapts it now; later training does not reach it.
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

    /// Runs a job on the threads of the pool that it is called in. `cancelled` ends it early with [`Error::Closed`].
    ///
    /// Samples go together as far as their keys and values fit a gigabyte, one group after the other.
    ///
    /// # Errors
    /// [`Error::Input`] naming what does not fit the model.
    pub fn run(&self, job: &SampleJob, cancelled: &AtomicBool) -> Result<SampleResult> {
        self.run_within(job, cancelled, CACHED_BYTES)
    }

    fn run_within(
        &self,
        job: &SampleJob,
        cancelled: &AtomicBool,
        bytes: usize,
    ) -> Result<SampleResult> {
        let max_tokens = self.check(job)?;
        let len = job.prompt.len();
        let mut cache = KvCache::new(self.base.config(), len);
        let (prompt, logits) =
            prompt::read(&self.base, &self.adapters, job, &mut cache, cancelled)?;

        let each = KvCache::bytes_of(self.base.config(), len + max_tokens);
        let together = (bytes / each.max(1)).max(1);
        let mut states: Vec<State> = (0..job.samples)
            .map(|index| State::new(job.seed, index))
            .collect();
        for group in states.chunks_mut(together) {
            for state in &mut *group {
                self.advance(state, &logits, job, max_tokens)?;
            }
            self.extend(group, &cache, job, max_tokens, cancelled)?;
        }
        Ok(SampleResult {
            samples: states.into_iter().map(|state| state.sample).collect(),
            prompt,
        })
    }

    /// Samples on from the first tokens, all samples step by step together. `read` holds the prompt.
    fn extend(
        &self,
        states: &mut [State],
        read: &KvCache,
        job: &SampleJob,
        max_tokens: usize,
        cancelled: &AtomicBool,
    ) -> Result<()> {
        let capacity = job.prompt.len() + max_tokens;
        let mut active: Vec<usize> = (0..states.len()).collect();
        active.retain(|&index| !states[index].ended);
        // Sequence i of the cache belongs to sample rows[i]; samples that have ended stay until half are gone.
        let mut rows = active.clone();
        let mut cache = read.select(&vec![0; rows.len()], capacity);
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

    /// Chooses the next token of one sample and sees whether it ends there.
    fn advance(
        &self,
        state: &mut State,
        logits: &[f32],
        job: &SampleJob,
        max_tokens: usize,
    ) -> Result<()> {
        let token = job.choice.choose(logits, &mut state.rng);
        let total = log_sum_exp(logits);
        let sample = &mut state.sample;
        sample.tokens.push(token);
        sample.log_probs.push(logits[token as usize] - total);
        if job.top_k_log_probs > 0 {
            sample
                .top_k
                .push(choose::most_likely(logits, job.top_k_log_probs, total));
        }
        let context = &job.prompt[job.prompt.len().saturating_sub(stop::LEAD)..];
        sample.stopped = job.stop.ends(context, &sample.tokens, &self.text)?;
        state.ended = sample.stopped || sample.tokens.len() >= max_tokens;
        Ok(())
    }

    /// Checks a job against the model; gives the number of tokens that a sample may have.
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
                format!("token {token} is outside the vocabulary of {expected}"),
            ));
        }
        if job.samples == 0 {
            return Err(Error::input("num_samples", "is 0, expected at least 1"));
        }
        // The last token of a sample is not read, so behind a prompt that fills the context there is room for one.
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

/// One sample on its way.
#[derive(Debug)]
struct State {
    sample: Sample,
    rng: Rng,
    ended: bool,
}

impl State {
    fn new(seed: u64, index: usize) -> Self {
        Self {
            sample: Sample {
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
            .expect("the first token is chosen before the first step")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn samples_in_several_batches_equal_those_in_one() {
        let base = testing::model("qwen3");
        let lora = testing::lora(base.config());
        let each = KvCache::bytes_of(base.config(), 3 + 20);
        let sampler = Sampler::new(base, Some(&lora), Arc::new(Text::Bytes));
        let job = SampleJob {
            prompt: vec![3, 1, 4],
            samples: 7,
            max_tokens: Some(20),
            choice: Choice::default(),
            seed: 5,
            stop: Stop::tokens(vec![9]),
            prompt_wishes: PromptWishes::default(),
            top_k_log_probs: 0,
        };
        let tokens = |bytes: usize| {
            let result = sampler.run_within(&job, &AtomicBool::new(false), bytes);
            let samples = result.unwrap().samples.into_iter();
            samples.map(|sample| sample.tokens).collect::<Vec<_>>()
        };
        let together = tokens(CACHED_BYTES);
        assert_eq!(together.len(), 7);
        assert_eq!(tokens(3 * each), together);
        assert_eq!(tokens(0), together);
    }

    #[test]
    fn a_cache_takes_up_what_is_reckoned_for_it() {
        let config = testing::config("llama");
        let cache = KvCache::new(&config, 1).select(&[0, 0, 0], 17);
        assert_eq!(cache.bytes(), 3 * KvCache::bytes_of(&config, 17));
    }
}
