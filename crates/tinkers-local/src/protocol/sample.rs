//! Samples, from the weights of a sampler, a base model or a checkpoint.

use std::sync::Arc;

use tinkers_wire::{InvalidInput, SampleRequest, Stop};

use super::check::{MAX_TOP_K, check_input};
use super::ids::OperationId;
use super::state::operations::{Goal, Origin};
use super::{Protocol, Stamp};
use crate::access::Owner;
use crate::dialect::AcceptedKind;
use crate::engine::{BaseModel, SamplerWeights, Work};
use crate::http::LazyResponse;
use crate::read::{Digest, Refusal};

/// The weights from which a sample is drawn, their base model, and the sampler to which the sample belongs.
struct Source {
    base: Arc<BaseModel>,
    weights: SamplerWeights,
    origin: Origin,
}

impl Protocol {
    /// Handles `POST /asample`: checks and starts a sample, or returns the earlier response to a repeated request.
    pub(super) fn sample(
        &mut self,
        at: Stamp,
        owner: &Owner,
        body: Box<SampleRequest>,
        digest: Digest,
    ) -> Result<LazyResponse, Refusal> {
        let samples = body.num_samples.unwrap_or(1);
        if let (Some(sampler), Some(number)) = (&body.sampling_session_id, body.seq_id) {
            let seen = self.samplers.live(sampler)?.samples();
            if let Some(operation) = seen.known("seq_id", number, digest)? {
                return Ok(self.accepted_sample(operation, samples));
            }
        }
        let source = self.source(owner, &body)?;
        check(&source.base, self.config.max_samples, &body)?;
        // This is the last check, since the in-flight limit counts each sample that it admits.
        self.samples.admit(at, digest.bytes())?;
        let prompt = body.prompt.len().unwrap_or(0) as u64;
        let work = Work::Sample {
            weights: source.weights,
            request: body,
        };
        let goal = Goal::Sample(source.base, prompt);
        let operation = self.operations.add(goal, source.origin.clone(), work);
        self.samples.add(operation, digest.bytes());
        if let Origin::Sampler(sampler, number) = source.origin {
            self.touch_sampler(&sampler);
            if let Some(number) = number {
                self.samplers
                    .add_sample(&sampler, number, digest, operation);
            }
        }
        self.start(operation);
        Ok(self.accepted_sample(operation, samples))
    }

    fn source(&self, owner: &Owner, body: &SampleRequest) -> Result<Source, Refusal> {
        match (
            &body.sampling_session_id,
            &body.base_model,
            &body.model_path,
        ) {
            (Some(id), None, None) => {
                let sampler = self.samplers.live(id)?;
                if let SamplerWeights::Checkpoint(path) = sampler.weights() {
                    self.checkpoints.get(path)?;
                }
                Ok(Source {
                    base: Arc::clone(sampler.base()),
                    weights: sampler.weights().clone(),
                    origin: Origin::Sampler(id.clone(), body.seq_id),
                })
            }
            (None, Some(base), None) => {
                let base = self.catalog.base(base)?;
                Ok(Source {
                    weights: SamplerWeights::Base(base.name.clone()),
                    base,
                    origin: Origin::Free(owner.clone()),
                })
            }
            (None, None, Some(path)) => {
                let record = self.checkpoints.get(path)?;
                Ok(Source {
                    base: self.catalog.base_of(record)?,
                    weights: SamplerWeights::Checkpoint(record.path.clone()),
                    origin: Origin::Free(owner.clone()),
                })
            }
            _ => Err(Refusal::field(
                "sampling_session_id",
                "expected exactly one of sampling_session_id, base_model and model_path",
            )),
        }
    }

    /// Returns the response to an accepted sample request, with one sequence id for each requested sample. A repeated request gets
    /// the same sequence ids.
    fn accepted_sample(&self, operation: OperationId, samples: u32) -> LazyResponse {
        let mut submission = self.submission(operation);
        let ids = (0..samples).map(|i| format!("{}-{i}", submission.request_id));
        submission.sample_sequence_ids = Some(ids.collect());
        self.config
            .dialect
            .accepted(submission, AcceptedKind::Other)
    }
}

fn check(base: &BaseModel, max_samples: u32, body: &SampleRequest) -> Result<(), Refusal> {
    // The vocabulary is checked first: it limits token ids more strictly than the checks of `tinkers-wire`.
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
    // The last token needs no position, so one token can follow a prompt that fills the context.
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

/// The maximum number of values, such as tokens and log-probabilities, in the result of one sample request. Without it, a small
/// request could use up the memory.
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

/// Creates a refusal that names the full path of a sampling parameter in the request body. The checks of `tinkers-wire` name only
/// the parameter.
fn invalid(error: InvalidInput) -> Refusal {
    let prefix = match error.field() {
        "max_tokens" | "temperature" | "top_p" | "top_k" | "stop" | "seed" => "sampling_params.",
        _ => "",
    };
    Refusal::invalid(prefix, &error)
}
