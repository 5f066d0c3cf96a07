//! The sampling threads: the cache of samplers, and the conversion of requests and responses.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use tinkers_local::engine::{EngineError, Job, JobId, Outcome, SamplerWeights, Work};
use tinkers_wire::{
    SampleRequest, SampleResponse, SampledSequence, StopReason, TensorData, TensorValues,
    TinkerPath, TopkLogprobs,
};

use super::{Shared, lock};
use crate::error::{Error, Result};
use crate::sample::{
    GeneratedSample, PromptScoreOptions, PromptScores, SampleJob, SampleResult, Sampler,
    SamplingOptions, StopConditions,
};
use crate::threads::Threads;

/// The maximum number of checkpoints for which the engine keeps a sampler in memory.
const CACHED_CHECKPOINTS: usize = 8;

/// The samplers that an engine keeps in memory: those for weights that were not saved to disk, by name, and an LRU cache of those
/// for checkpoints.
#[derive(Debug, Default)]
pub(super) struct SamplerCache {
    snapshots: Mutex<BTreeMap<String, Sampler>>,
    checkpoints: Mutex<Vec<(TinkerPath, Sampler)>>,
}

impl SamplerCache {
    pub(super) fn put_snapshot(&self, name: &str, sampler: Sampler) {
        lock(&self.snapshots).insert(name.to_owned(), sampler);
    }

    pub(super) fn drop_snapshot(&self, name: &str) {
        lock(&self.snapshots).remove(name);
    }

    /// Runs `change` while no other thread reads the checkpoint at `path`. `change` may replace or delete this checkpoint. Also
    /// removes the sampler for the checkpoint from the cache.
    pub(super) fn invalidate_during<R>(&self, path: &TinkerPath, change: impl FnOnce() -> R) -> R {
        let mut cached = lock(&self.checkpoints);
        cached.retain(|(other, _)| other != path);
        change()
    }

    fn snapshot(&self, name: &str) -> Result<Sampler> {
        let snapshots = lock(&self.snapshots);
        let sampler = snapshots.get(name).cloned();
        sampler.ok_or_else(|| {
            Error::input(
                "sampling_session_id",
                format!("{name:?} no longer has weights"),
            )
        })
    }

    fn checkpoint(&self, shared: &Shared, path: &TinkerPath) -> Result<Sampler> {
        let mut cached = lock(&self.checkpoints);
        if let Some(at) = cached.iter().position(|(other, _)| other == path) {
            // The last entry of the list is the most recently used one.
            let entry = cached.remove(at);
            let sampler = entry.1.clone();
            cached.push(entry);
            return Ok(sampler);
        }
        let checkpoint = shared.read(path)?;
        let base = Arc::clone(&shared.model);
        let sampler = Sampler::new(base, Some(&checkpoint.lora), Arc::clone(&shared.text));
        if cached.len() == CACHED_CHECKPOINTS {
            cached.remove(0);
        }
        cached.push((path.clone(), sampler.clone()));
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
            "a sampling thread received a job of another kind",
        ));
    };
    let sampler = match weights {
        SamplerWeights::Base(name) => {
            shared.check_name(name)?;
            Sampler::new(Arc::clone(&shared.model), None, Arc::clone(&shared.text))
        }
        SamplerWeights::Checkpoint(path) => shared.samplers.checkpoint(shared, path)?,
        SamplerWeights::Snapshot(name) => shared.samplers.snapshot(name)?,
    };
    let sample_job = parse(shared, request, job.id)?;
    let result = threads.run(|| sampler.run(&sample_job, cancelled))?;
    Ok(Outcome::Sampled(respond(request, result)?))
}

/// Converts a sample request to a [`SampleJob`].
fn parse(shared: &Shared, request: &SampleRequest, job: JobId) -> Result<SampleJob> {
    request
        .validate()
        .map_err(|e| Error::input(e.field(), format!("expected {}", e.expected())))?;
    if request.prompt_alt_tokens_k.is_some_and(|k| k > 0) {
        return Err(Error::input(
            "prompt_alt_tokens_k",
            "is not supported by this engine",
        ));
    }
    let prompt = request.prompt.tokens().ok_or_else(|| {
        Error::input(
            "prompt",
            "contains other chunks than text, expected only tokens",
        )
    })?;
    let params = &request.sampling_params;
    let stop = match &params.stop {
        None => StopConditions::tokens(shared.end_tokens.clone()),
        Some(tinkers_wire::Stop::Texts(texts)) if texts.is_empty() => StopConditions::never(),
        Some(tinkers_wire::Stop::Tokens(tokens)) if tokens.is_empty() => StopConditions::never(),
        // The end tokens of the model also end a sample that has stop sequences.
        Some(tinkers_wire::Stop::Texts(texts)) => {
            StopConditions::tokens(shared.end_tokens.clone()).or_texts(texts.iter().cloned())
        }
        Some(tinkers_wire::Stop::Tokens(tokens)) => {
            StopConditions::tokens([tokens.as_slice(), &shared.end_tokens].concat())
        }
    };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the engine computes in f32"
    )]
    let sampling = SamplingOptions {
        temperature: params.temperature.unwrap_or(1.0) as f32,
        top_k: params
            .top_k
            .and_then(|k| usize::try_from(k).ok())
            .filter(|&k| k > 0),
        top_p: params.top_p.unwrap_or(1.0) as f32,
    };
    let prompt_options = PromptScoreOptions {
        log_probs: request.prompt_logprobs == Some(true),
        top_k: request.topk_prompt_logprobs.unwrap_or(0) as usize,
        targets: targets(shared, request)?,
    };
    Ok(SampleJob {
        prompt,
        samples: request.num_samples.unwrap_or(1) as usize,
        max_tokens: params.max_tokens.map(|max| max as usize),
        sampling,
        seed: params.seed.unwrap_or_else(|| shared.seed_of(job)),
        stop,
        prompt_options,
        top_k_log_probs: request.topk_sample_logprobs.unwrap_or(0) as usize,
    })
}

/// Returns, for each prompt position but the first, the tokens whose log-probabilities are requested. The padding id -1 becomes
/// token 0; [`target_tensor`] drops the log-probability of this token.
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
            format!("contains token {id}, expected ids below {vocabulary}"),
        )),
    };
    if let Some(indices) = tensor.csr_indices() {
        let bounds = indices.crow.windows(2);
        let index = |at: i64| usize::try_from(at).unwrap_or(0);
        return bounds
            .map(|pair| ids[index(pair[0])..index(pair[1])].iter().map(id).collect())
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
    if let Some(requested) = &request.target_prompt_logprobs {
        response.target_prompt_logprobs = Some(target_tensor(requested, targets)?);
    }
    response.prompt_cache_hit_tokens = Some(0);
    Ok(response)
}

fn sequence(sample: GeneratedSample, top_k: bool) -> SampledSequence {
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

/// Builds the tensor of requested log-probabilities in the shape and layout of the request. Padding elements are zero.
fn target_tensor(requested: &TensorData, scores: Vec<Vec<f32>>) -> Result<TensorData> {
    let ids = requested.as_i64().unwrap_or_default();
    let scores = scores.into_iter().flatten().zip(ids);
    let scores: Vec<f32> = scores
        .map(|(p, &id)| if id < 0 { 0.0 } else { p })
        .collect();
    let values = TensorValues::F32(scores.into());
    let shape = requested.shape();
    let tensor = match (requested.csr_indices(), shape.as_slice()) {
        (Some(indices), &[rows, cols]) => TensorData::csr(values, [rows, cols], indices.clone()),
        _ => TensorData::dense(values, shape),
    };
    tensor.map_err(|e| {
        Error::Model(format!(
            "cannot build the tensor of target_prompt_logprobs: {e}"
        ))
    })
}
