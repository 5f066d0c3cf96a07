//! Samples: by sampler, by base model, or by checkpoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use tinkers_core::Moment;
use tinkers_wire::{InvalidInput, SampleRequest, Stop};

use super::check::{MAX_TOP_K, check_input};
use super::lane::QueueLimit;
use super::model::known;
use super::operation::Origin;
use super::{Goal, OperationId, Protocol, Stamp};
use crate::dialect::Promised;
use crate::engine::{BaseModel, Weights, Work};
use crate::http::Answer;
use crate::read::{Digest, Refusal};
use crate::window::{self, Window, WindowCounts};

/// What a request is answered from.
struct Source {
    base: Arc<BaseModel>,
    weights: Weights,
    origin: Origin,
}

/// Samples that have not ended, with the bytes of their bodies.
#[derive(Debug, Default)]
pub(super) struct Sampling {
    bodies: BTreeMap<OperationId, usize>,
    bytes: usize,
    window: Option<window::State>,
}

impl Sampling {
    /// None yet, under a window where there is one.
    pub(super) fn under(window: Option<Window>) -> Self {
        Self {
            window: window.map(window::State::new),
            ..Self::default()
        }
    }

    /// What the window saw.
    pub(super) fn window_counts(&mut self, now: Moment) -> Option<WindowCounts> {
        self.window.as_mut().map(|window| window.counts(now))
    }

    /// Whether another may go on under the window, which it then does.
    fn enter_window(&mut self, at: Stamp) -> Result<(), Refusal> {
        let Some(window) = &mut self.window else {
            return Ok(());
        };
        window.submit(at).map_err(|hint| {
            let reason = "as many samples are in flight as the server takes; come back later";
            Refusal::limited(reason, hint)
        })
    }

    fn has_room(&self, bytes: usize, limit: QueueLimit) -> bool {
        self.bodies.len() < limit.requests
            && (self.bytes == 0 || self.bytes.saturating_add(bytes) <= limit.bytes)
    }

    fn add(&mut self, id: OperationId, bytes: usize) {
        self.bodies.insert(id, bytes);
        self.bytes += bytes;
    }

    /// An operation has ended, which may have been a sample.
    pub(super) fn ended(&mut self, now: Moment, id: OperationId) {
        let Some(bytes) = self.bodies.remove(&id) else {
            return;
        };
        self.bytes -= bytes;
        if let Some(window) = &mut self.window {
            window.ended(now);
        }
    }
}

impl Protocol {
    /// `POST /asample`.
    pub(super) fn sample(
        &mut self,
        at: Stamp,
        body: Box<SampleRequest>,
        digest: Digest,
    ) -> Result<Answer, Refusal> {
        let samples = body.num_samples.unwrap_or(1);
        if let (Some(sampler), Some(number)) = (&body.sampling_session_id, body.seq_id) {
            let seen = &self.live_sampler(sampler)?.seen;
            if let Some(operation) = known(seen, "seq_id", number, digest)? {
                return Ok(self.sample_promise(operation, samples));
            }
        }
        let source = self.source(&body)?;
        check(&source.base, self.config.max_samples, &body)?;
        if !self
            .sampling
            .has_room(digest.bytes(), self.config.queue_limit())
        {
            return Err(Refusal::busy(
                "too many samples are under way already; come back later",
            ));
        }
        // The last thing that can refuse: what enters is accepted.
        self.sampling.enter_window(at)?;
        let work = Work::Sample {
            weights: source.weights,
            request: body,
        };
        let operation = self.operation(Goal::Compute, source.origin.clone(), work);
        self.sampling.add(operation, digest.bytes());
        if let Origin::Sampler(sampler, number) = source.origin {
            self.used(&sampler);
            if let Some(number) = number
                && let Some(sampler) = self.samplers.get_mut(&sampler)
            {
                sampler.seen.insert(number, (digest, operation));
            }
        }
        self.start(operation);
        Ok(self.sample_promise(operation, samples))
    }

    fn source(&self, body: &SampleRequest) -> Result<Source, Refusal> {
        match (
            &body.sampling_session_id,
            &body.base_model,
            &body.model_path,
        ) {
            (Some(id), None, None) => {
                let sampler = self.live_sampler(id)?;
                if let Weights::Checkpoint(path) = &sampler.weights {
                    self.checkpoint(path)?;
                }
                Ok(Source {
                    base: Arc::clone(&sampler.base),
                    weights: sampler.weights.clone(),
                    origin: Origin::Sampler(id.clone(), body.seq_id),
                })
            }
            (None, Some(base), None) => {
                let base = self.base(base)?;
                Ok(Source {
                    weights: Weights::Base(base.name.clone()),
                    base,
                    origin: Origin::Free,
                })
            }
            (None, None, Some(path)) => {
                let record = self.checkpoint(path)?;
                Ok(Source {
                    base: self.base_of(record)?,
                    weights: Weights::Checkpoint(record.path.clone()),
                    origin: Origin::Free,
                })
            }
            _ => Err(Refusal::field(
                "sampling_session_id",
                "expected exactly one of sampling_session_id, base_model and model_path",
            )),
        }
    }

    /// One id for each sample, the same for a repeated request.
    fn sample_promise(&self, operation: OperationId, samples: u32) -> Answer {
        let mut promise = self.plain_promise(operation);
        let ids = (0..samples).map(|i| format!("{}-{i}", promise.request_id));
        promise.sample_sequence_ids = Some(ids.collect());
        self.config.dialect.promise(promise, Promised::Other)
    }
}

fn check(base: &BaseModel, max_samples: u32, body: &SampleRequest) -> Result<(), Refusal> {
    // The vocabulary first: what the wire says of ids is the weaker bound.
    check_input(base, "prompt", &body.prompt).map_err(|error| Refusal::invalid("", &error))?;
    body.validate().map_err(invalid)?;
    if body.num_samples.is_some_and(|n| n > max_samples) {
        return Err(Refusal::field(
            "num_samples",
            format!("expected at most {max_samples}"),
        ));
    }
    let prompt = body.prompt.len().unwrap_or(0) as u64;
    let wanted = u64::from(body.sampling_params.max_tokens.unwrap_or(1));
    let longest = u64::from(base.max_context_length);
    // The last token takes no place of its own: what follows a prompt that fills the context can still be told.
    if prompt.saturating_add(wanted) > longest && (prompt, wanted) != (longest, 1) {
        let field = match body.sampling_params.max_tokens {
            Some(_) => "sampling_params.max_tokens",
            None => "prompt",
        };
        let reason = format!(
            "expected prompt and max_tokens to fit the context of {longest} tokens, got {prompt} and {wanted}"
        );
        return Err(Refusal::field(field, reason));
    }
    check_size(base, body)?;
    if body.record_stability_info == Some(true) {
        let reason = "expected false: this server records nothing of the kind";
        return Err(Refusal::field("record_stability_info", reason));
    }
    for (field, k) in [
        ("topk_prompt_logprobs", body.topk_prompt_logprobs),
        ("topk_sample_logprobs", body.topk_sample_logprobs),
        ("prompt_alt_tokens_k", body.prompt_alt_tokens_k),
    ] {
        let most = MAX_TOP_K.min(base.vocab_size);
        if k.is_some_and(|k| k > most) {
            return Err(Refusal::field(field, format!("expected at most {most}")));
        }
    }
    if body
        .prompt_logprobs_last_n
        .is_some_and(|n| u64::from(n) >= prompt)
    {
        let reason = format!("expected less than the {prompt} tokens of the prompt");
        return Err(Refusal::field("prompt_logprobs_last_n", reason));
    }
    if let Some(targets) = &body.target_prompt_logprobs {
        let ids = targets.as_i64().unwrap_or_default();
        let fits = ids
            .iter()
            .all(|id| (-1..i64::from(base.vocab_size)).contains(id));
        if !fits
            || targets
                .shape()
                .get(1)
                .is_none_or(|side| *side > base.vocab_size as usize)
        {
            let reason = format!("expected -1 or token ids below {}", base.vocab_size);
            return Err(Refusal::field("target_prompt_logprobs", reason));
        }
    }
    if let Some(Stop::Tokens(tokens)) = &body.sampling_params.stop
        && tokens.iter().any(|token| *token >= base.vocab_size)
    {
        let reason = format!("expected token ids below {}", base.vocab_size);
        return Err(Refusal::field("sampling_params.stop", reason));
    }
    Ok(())
}

/// The most numbers in one answer. A few short fields could otherwise ask for more than any machine holds.
const MAX_CELLS: u64 = 1 << 26;

fn check_size(base: &BaseModel, body: &SampleRequest) -> Result<(), Refusal> {
    let wide = |k: Option<u32>| u64::from(k.unwrap_or(0)) + 1;
    let prompt = body.prompt.len().unwrap_or(0) as u64;
    let longest = u64::from(base.max_context_length).saturating_sub(prompt);
    let tokens = body.sampling_params.max_tokens.map_or(longest, u64::from);
    let sampled = u64::from(body.num_samples.unwrap_or(1))
        .saturating_mul(tokens)
        .saturating_mul(wide(body.topk_sample_logprobs));
    if sampled > MAX_CELLS {
        let reason = format!(
            "expected num_samples, max_tokens and topk_sample_logprobs to make at most {MAX_CELLS} numbers"
        );
        return Err(Refusal::field("num_samples", reason));
    }
    let scored =
        prompt.saturating_mul(wide(body.topk_prompt_logprobs) + wide(body.prompt_alt_tokens_k));
    if scored > MAX_CELLS {
        let reason = format!("expected at most {MAX_CELLS} numbers for the prompt");
        return Err(Refusal::field("topk_prompt_logprobs", reason));
    }
    Ok(())
}

/// The checks of the wire name the parameters without the way to them.
fn invalid(error: InvalidInput) -> Refusal {
    let prefix = match error.field() {
        "max_tokens" | "temperature" | "top_p" | "top_k" | "stop" | "seed" => "sampling_params.",
        _ => "",
    };
    Refusal::invalid(prefix, &error)
}
