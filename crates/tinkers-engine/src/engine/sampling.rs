//! The sampling threads: samplers by name, and requests in the words of the wire.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use tinkers_local::engine::{EngineError, Job, JobId, Outcome, Weights, Work};
use tinkers_wire::{
    SampleRequest, SampleResponse, SampledSequence, StopReason, TensorData, TensorValues,
    TinkerPath, TopkLogprobs,
};

use super::{Shared, lock};
use crate::error::{Error, Result};
use crate::sample::{
    Choice, PromptScores, PromptWishes, Sample, SampleJob, SampleResult, Sampler, Stop,
};
use crate::threads::Threads;

/// Samplers from checkpoints that are kept in memory for the next request.
const KEPT: usize = 8;

/// Samplers that can be found by name.
#[derive(Debug, Default)]
pub(super) struct SamplerShelf {
    snapshots: Mutex<BTreeMap<String, Sampler>>,
    checkpoints: Mutex<Vec<(TinkerPath, Sampler)>>,
}

impl SamplerShelf {
    pub(super) fn put_snapshot(&self, name: &str, sampler: Sampler) {
        lock(&self.snapshots).insert(name.to_owned(), sampler);
    }

    pub(super) fn drop_snapshot(&self, name: &str) {
        lock(&self.snapshots).remove(name);
    }

    /// Changes the checkpoint at `path` while nobody reads it, and forgets what was read before.
    pub(super) fn changing<R>(&self, path: &TinkerPath, change: impl FnOnce() -> R) -> R {
        let mut kept = lock(&self.checkpoints);
        kept.retain(|(other, _)| other != path);
        change()
    }

    fn snapshot(&self, name: &str) -> Result<Sampler> {
        let snapshots = lock(&self.snapshots);
        let sampler = snapshots.get(name).cloned();
        sampler.ok_or_else(|| {
            Error::input(
                "sampling_session_id",
                format!("{name:?} holds no weights any more"),
            )
        })
    }

    fn checkpoint(&self, shared: &Shared, path: &TinkerPath) -> Result<Sampler> {
        let mut kept = lock(&self.checkpoints);
        if let Some(at) = kept.iter().position(|(other, _)| other == path) {
            // The most recently used stands last.
            let entry = kept.remove(at);
            let sampler = entry.1.clone();
            kept.push(entry);
            return Ok(sampler);
        }
        let saved = shared.read(path)?;
        let base = Arc::clone(&shared.model);
        let sampler = Sampler::new(base, Some(&saved.lora), Arc::clone(&shared.text));
        if kept.len() == KEPT {
            kept.remove(0);
        }
        kept.push((path.clone(), sampler.clone()));
        Ok(sampler)
    }
}

pub(super) fn run(
    shared: &Shared,
    threads: &Threads,
    job: &Job,
    cancelled: &AtomicBool,
) -> Result<Outcome, EngineError> {
    let Work::Sample { weights, request } = &job.work else {
        return Err(EngineError::server(
            "a sampling thread was given another job",
        ));
    };
    let sampler = match weights {
        Weights::Base(name) => {
            shared.check_name(name)?;
            Sampler::new(Arc::clone(&shared.model), None, Arc::clone(&shared.text))
        }
        Weights::Checkpoint(path) => shared.shelf.checkpoint(shared, path)?,
        Weights::Snapshot(name) => shared.shelf.snapshot(name)?,
    };
    let wanted = read(shared, request, job.id)?;
    let result = threads.run(|| sampler.run(&wanted, cancelled))?;
    Ok(Outcome::Sampled(respond(request, result)?))
}

/// The request as a job.
fn read(shared: &Shared, request: &SampleRequest, job: JobId) -> Result<SampleJob> {
    request
        .validate()
        .map_err(|e| Error::input(e.field(), format!("expected {}", e.expected())))?;
    if request.prompt_alt_tokens_k.is_some_and(|k| k > 0) {
        return Err(Error::input(
            "prompt_alt_tokens_k",
            "is not supported by this engine",
        ));
    }
    let prompt = request
        .prompt
        .tokens()
        .ok_or_else(|| Error::input("prompt", "holds more than text, expected tokens"))?;
    let params = &request.sampling_params;
    let stop = match &params.stop {
        None => Stop::tokens(shared.end_tokens.clone()),
        Some(tinkers_wire::Stop::Texts(texts)) if texts.is_empty() => Stop::never(),
        Some(tinkers_wire::Stop::Tokens(tokens)) if tokens.is_empty() => Stop::never(),
        // The end of a text is an end whatever else is one.
        Some(tinkers_wire::Stop::Texts(texts)) => {
            Stop::tokens(shared.end_tokens.clone()).or_texts(texts.iter().cloned())
        }
        Some(tinkers_wire::Stop::Tokens(tokens)) => {
            Stop::tokens([tokens.as_slice(), &shared.end_tokens].concat())
        }
    };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the engine computes in f32"
    )]
    let choice = Choice {
        temperature: params.temperature.unwrap_or(1.0) as f32,
        top_k: params
            .top_k
            .and_then(|k| usize::try_from(k).ok())
            .filter(|&k| k > 0),
        top_p: params.top_p.unwrap_or(1.0) as f32,
    };
    let wishes = PromptWishes {
        log_probs: request.prompt_logprobs == Some(true),
        top_k: request.topk_prompt_logprobs.unwrap_or(0) as usize,
        targets: targets(shared, request)?,
    };
    Ok(SampleJob {
        prompt,
        samples: request.num_samples.unwrap_or(1) as usize,
        max_tokens: params.max_tokens.map(|max| max as usize),
        choice,
        seed: params.seed.unwrap_or_else(|| shared.seed_of(job)),
        stop,
        prompt_wishes: wishes,
        top_k_log_probs: request.topk_sample_logprobs.unwrap_or(0) as usize,
    })
}

/// The tokens asked for at each prompt position but the first; -1 asks for none, and is answered for token 0 and hidden.
fn targets(shared: &Shared, request: &SampleRequest) -> Result<Vec<Vec<u32>>> {
    let Some(tensor) = &request.target_prompt_logprobs else {
        return Ok(Vec::new());
    };
    let vocabulary = shared.model.config().vocab_size;
    let ids = tensor.as_i64().unwrap_or_default();
    let id = |&id: &i64| match usize::try_from(id.max(0)) {
        Ok(token) if token < vocabulary => Ok(u32::try_from(token).unwrap_or(0)),
        _ => Err(Error::input(
            "target_prompt_logprobs",
            format!("token {id} is outside the vocabulary of {vocabulary}"),
        )),
    };
    if let Some(indices) = tensor.csr_indices() {
        let bounds = indices.crow.windows(2);
        let place = |at: i64| usize::try_from(at).unwrap_or(0);
        return bounds
            .map(|pair| ids[place(pair[0])..place(pair[1])].iter().map(id).collect())
            .collect();
    }
    let columns = tensor.shape().get(1).copied().unwrap_or(1);
    if columns == 0 {
        return Ok(Vec::new());
    }
    ids.chunks_exact(columns)
        .map(|row| row.iter().map(id).collect())
        .collect()
}

fn respond(request: &SampleRequest, result: SampleResult) -> Result<SampleResponse> {
    let prompt_len = result.prompt.log_probs.len();
    let mut response = SampleResponse::default();
    let top_k = request.topk_sample_logprobs.unwrap_or(0) > 0;
    response.sequences = result
        .samples
        .into_iter()
        .map(|s| sequence(s, top_k))
        .collect();
    let PromptScores {
        log_probs,
        top_k,
        targets,
    } = result.prompt;
    if request.prompt_logprobs == Some(true) {
        let hidden = request
            .prompt_logprobs_last_n
            .map_or(0, |last| prompt_len.saturating_sub(last as usize));
        let shown = log_probs.into_iter().enumerate();
        let shown = shown.map(|(at, p)| p.filter(|_| at >= hidden));
        response.prompt_logprobs = Some(shown.collect());
    }
    if !top_k.is_empty() {
        response.topk_prompt_logprobs = Some(TopkLogprobs::from_rows(&top_k));
    }
    if let Some(asked) = &request.target_prompt_logprobs {
        response.target_prompt_logprobs = Some(answer(asked, targets)?);
    }
    response.prompt_cache_hit_tokens = Some(0);
    Ok(response)
}

fn sequence(sample: Sample, top_k: bool) -> SampledSequence {
    let reason = if sample.stopped {
        StopReason::Stop
    } else {
        StopReason::Length
    };
    let mut sequence = SampledSequence::new(reason, sample.tokens);
    sequence.logprobs = Some(sample.log_probs);
    sequence.topk_logprobs = top_k.then(|| TopkLogprobs::from_rows(&sample.top_k));
    sequence
}

/// The log-probabilities in the shape and layout of the question, zero where nothing was asked.
fn answer(asked: &TensorData, scores: Vec<Vec<f32>>) -> Result<TensorData> {
    let ids = asked.as_i64().unwrap_or_default();
    let scores = scores.into_iter().flatten().zip(ids);
    let scores: Vec<f32> = scores
        .map(|(p, &id)| if id < 0 { 0.0 } else { p })
        .collect();
    let values = TensorValues::F32(scores.into());
    let shape = asked.shape();
    let answer = match (asked.csr_indices(), shape.as_slice()) {
        (Some(indices), &[rows, cols]) => TensorData::csr(values, [rows, cols], indices.clone()),
        _ => TensorData::dense(values, shape),
    };
    answer.map_err(|e| Error::Model(format!("the scores cannot be told: {e}")))
}
