//! An engine without a model. It returns fixed results of a given size after a given latency, for load tests and protocol tests.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tinkers_core::{Clock, Spawn, Task};
use tinkers_wire::{
    Datum, ForwardBackwardOutput, OptimStepResult, SampleRequest, SampleResponse, SampledSequence,
    StopReason, TensorData, TinkerPath, TopkLogprobs,
};

use crate::engine::{
    BaseModel, CheckpointRecord, Engine, EngineError, Job, JobCallback, JobId, Outcome, Work,
};

/// The base models and the properties of the results of a [`ScriptedEngine`], an engine that does not compute.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Script {
    /// The base models that the engine offers.
    pub models: Vec<BaseModel>,
    /// The number of tokens in a sampled sequence, if the request does not set `max_tokens`.
    pub sample_tokens: u32,
    /// The maximum number of tokens in a sampled sequence. A sequence that would be longer ends at this length, with the stop
    /// reason `stop`. `None` for no maximum.
    pub longest_sample: Option<u32>,
    /// The size in bytes of an additional output for each datum (training example) of a forward or backward pass. It serves to make
    /// results large.
    pub padding_bytes: usize,
    /// The checkpoints that exist when the engine is created.
    pub checkpoints: Vec<CheckpointRecord>,
}

impl Default for Script {
    /// Returns a script with one base model, `tinkers/scripted`, with a vocabulary of 256 tokens and a context of 4096 tokens.
    /// Sampled sequences have 16 tokens.
    fn default() -> Self {
        Self {
            models: vec![BaseModel {
                name: "tinkers/scripted".to_owned(),
                aliases: Vec::new(),
                fingerprint: None,
                arch: "scripted".to_owned(),
                max_context_length: 4096,
                vocab_size: 256,
                tokenizer_id: None,
                max_lora_rank: 128,
            }],
            sample_tokens: 16,
            longest_sample: None,
            padding_bytes: 0,
            checkpoints: Vec::new(),
        }
    }
}

/// An engine for tests that returns made-up results instead of computing. The loss of a model decreases with each optimizer step, and
/// a model that is loaded from a checkpoint continues with the loss that the saved model had. Sampled tokens count up from the last token of the prompt. Without a latency, each job ends within the call that starts it.
#[derive(Debug, Default)]
pub struct ScriptedEngine {
    script: Script,
    latency: Option<Latency>,
    counts: Counters,
    /// For each model, the number of optimizer steps so far. The loss of the model depends on this number.
    steps: Mutex<BTreeMap<String, u64>>,
    /// For each training checkpoint, the number of optimizer steps of its model at the time of the save.
    saved_steps: Mutex<BTreeMap<TinkerPath, u64>>,
    /// The jobs that have started and whose latency has not passed. They are aborted when the engine is dropped.
    waiting: Arc<Mutex<BTreeMap<JobId, Task>>>,
}

#[derive(Debug)]
struct Latency {
    delay: Duration,
    time: Arc<dyn Clock>,
    spawn: Arc<dyn Spawn>,
}

/// The number of jobs that a [`ScriptedEngine`] has started, for each kind of job, and of jobs that were cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are the kinds of work")]
pub struct JobCounts {
    pub created: u64,
    pub loaded: u64,
    pub unloaded: u64,
    pub forwards: u64,
    pub backwards: u64,
    pub steps: u64,
    pub saves: u64,
    pub snapshots: u64,
    pub dropped_snapshots: u64,
    pub deleted: u64,
    /// The number of copied checkpoints.
    pub copied: u64,
    pub samples: u64,
    pub cancelled: u64,
}

#[derive(Debug, Default)]
struct Counters {
    created: AtomicU64,
    loaded: AtomicU64,
    unloaded: AtomicU64,
    forwards: AtomicU64,
    backwards: AtomicU64,
    steps: AtomicU64,
    saves: AtomicU64,
    snapshots: AtomicU64,
    dropped_snapshots: AtomicU64,
    deleted: AtomicU64,
    copied: AtomicU64,
    samples: AtomicU64,
    cancelled: AtomicU64,
}

impl ScriptedEngine {
    /// Creates an engine whose jobs end at once.
    pub fn new(script: Script) -> Self {
        Self {
            script,
            ..Self::default()
        }
    }

    /// Makes each job of the engine end only after the time `delay`, measured on the clock `time`. The default is no delay.
    #[must_use]
    pub fn with_latency(
        mut self,
        delay: Duration,
        time: Arc<dyn Clock>,
        spawn: Arc<dyn Spawn>,
    ) -> Self {
        self.latency = Some(Latency { delay, time, spawn });
        self
    }

    /// Returns the number of jobs of each kind that have been started so far, and the number of cancelled jobs.
    pub fn counts(&self) -> JobCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        let counts = &self.counts;
        JobCounts {
            created: read(&counts.created),
            loaded: read(&counts.loaded),
            unloaded: read(&counts.unloaded),
            forwards: read(&counts.forwards),
            backwards: read(&counts.backwards),
            steps: read(&counts.steps),
            saves: read(&counts.saves),
            snapshots: read(&counts.snapshots),
            dropped_snapshots: read(&counts.dropped_snapshots),
            deleted: read(&counts.deleted),
            copied: read(&counts.copied),
            samples: read(&counts.samples),
            cancelled: read(&counts.cancelled),
        }
    }

    fn count(&self, work: &Work) {
        use tinkers_wire::PassMode::{Forward, ForwardBackward};
        let counts = &self.counts;
        let counter = match work {
            Work::CreateModel { .. } => &counts.created,
            Work::CreateFromCheckpoint { .. } | Work::LoadCheckpoint { .. } => &counts.loaded,
            Work::UnloadModel { .. } => &counts.unloaded,
            Work::Pass { mode: Forward, .. } => &counts.forwards,
            Work::Pass {
                mode: ForwardBackward,
                ..
            } => &counts.backwards,
            Work::OptimStep { .. } => &counts.steps,
            Work::Save { .. } => &counts.saves,
            Work::Snapshot { .. } => &counts.snapshots,
            Work::DropSnapshot { .. } => &counts.dropped_snapshots,
            Work::DeleteCheckpoint { .. } => &counts.deleted,
            Work::CopyCheckpoint { .. } => &counts.copied,
            Work::Sample { .. } => &counts.samples,
        };
        counter.fetch_add(1, Ordering::SeqCst);
    }

    fn outcome(&self, work: &Work) -> Outcome {
        match work {
            Work::Pass { model, data, .. } => Outcome::Pass(self.pass(model, data)),
            Work::OptimStep { model, .. } => {
                *lock(&self.steps).entry(model.clone()).or_default() += 1;
                let metrics = BTreeMap::from([("grad_norm:mean".to_owned(), 1.0)]);
                Outcome::Step(OptimStepResult::new(metrics))
            }
            Work::Save { model, record, .. } => {
                lock(&self.saved_steps).insert(record.path.clone(), self.steps(model));
                Outcome::Saved { size_bytes: 1024 }
            }
            Work::CreateFromCheckpoint { model, path, .. }
            | Work::LoadCheckpoint { model, path, .. } => {
                let saved = lock(&self.saved_steps).get(path).copied().unwrap_or(0);
                lock(&self.steps).insert(model.clone(), saved);
                Outcome::Done
            }
            Work::CopyCheckpoint { source, record } => {
                let mut saved = lock(&self.saved_steps);
                let steps = saved.get(source).copied().unwrap_or(0);
                saved.insert(record.path.clone(), steps);
                Outcome::Saved { size_bytes: 1024 }
            }
            Work::Sample { request, .. } => Outcome::Sampled(self.sample(request)),
            _ => Outcome::Done,
        }
    }

    /// Returns the number of optimizer steps of a model.
    fn steps(&self, model: &str) -> u64 {
        lock(&self.steps).get(model).copied().unwrap_or(0)
    }

    fn pass(&self, model: &str, data: &[Datum]) -> ForwardBackwardOutput {
        let logprob = -4.0 / (1.0 + self.steps(model) as f32);
        let mut positions = 0;
        let outputs = data.iter().map(|datum| {
            let len = datum.model_input.len().unwrap_or(0);
            positions += len;
            let mut output =
                BTreeMap::from([("logprobs".to_owned(), TensorData::f32(vec![logprob; len]))]);
            if self.script.padding_bytes > 0 {
                let padding = TensorData::f32(vec![0.0; self.script.padding_bytes.div_ceil(4)]);
                output.insert("padding".to_owned(), padding);
            }
            output
        });
        let outputs = outputs.collect();
        let loss = f64::from(-logprob) * positions as f64;
        ForwardBackwardOutput::new("ArrayRecord", outputs)
            .with_metrics(BTreeMap::from([("loss:sum".to_owned(), loss)]))
    }

    fn sample(&self, request: &SampleRequest) -> SampleResponse {
        let prompt = request.prompt.tokens().unwrap_or_default();
        let vocabulary = self
            .script
            .models
            .first()
            .map_or(256, |model| model.vocab_size)
            .max(1);
        let wanted = request
            .sampling_params
            .max_tokens
            .unwrap_or(self.script.sample_tokens);
        let (wanted, stop) = match self.script.longest_sample {
            Some(longest) if longest < wanted => (longest, StopReason::Stop),
            _ => (wanted, StopReason::Length),
        };
        let first = prompt.last().copied().unwrap_or(0);
        let tokens: Vec<u32> = (1..=wanted)
            .map(|i| first.wrapping_add(i) % vocabulary)
            .collect();
        let row = |k: u32| (0..k).map(|i| (i, -1.0 - i as f32)).collect::<Vec<_>>();
        let mut response = SampleResponse::default();
        for _ in 0..request.num_samples.unwrap_or(1) {
            let mut sequence = SampledSequence::new(stop.clone(), tokens.clone());
            sequence.logprobs = Some(vec![-1.0; tokens.len()]);
            sequence.topk_logprobs = request
                .topk_sample_logprobs
                .filter(|k| *k > 0)
                .map(|k| TopkLogprobs::from_rows(&vec![row(k); tokens.len()]));
            response.sequences.push(sequence);
        }
        let scored = |i: usize| i > 0;
        if request.prompt_logprobs == Some(true) {
            let from = request
                .prompt_logprobs_last_n
                .map_or(0, |n| prompt.len().saturating_sub(n as usize));
            let logprobs = (0..prompt.len()).map(|i| (scored(i) && i >= from).then_some(-1.0));
            response.prompt_logprobs = Some(logprobs.collect());
        }
        if let Some(k) = request.topk_prompt_logprobs.filter(|k| *k > 0) {
            let rows: Vec<_> = (0..prompt.len())
                .map(|i| if scored(i) { row(k) } else { Vec::new() })
                .collect();
            response.topk_prompt_logprobs = Some(TopkLogprobs::from_rows(&rows));
        }
        response
    }
}

impl Engine for ScriptedEngine {
    fn models(&self) -> Vec<BaseModel> {
        self.script.models.clone()
    }

    fn checkpoints(&self) -> Result<Vec<CheckpointRecord>, EngineError> {
        Ok(self.script.checkpoints.clone())
    }

    fn start(&self, job: Job, done: JobCallback) {
        self.count(&job.work);
        let outcome = self.outcome(&job.work);
        let Some(latency) = &self.latency else {
            done.finish(Ok(outcome));
            return;
        };
        let sleep = latency.time.sleep(latency.delay);
        let waiting = Arc::clone(&self.waiting);
        // The task needs this lock to remove its entry, so it cannot remove the entry before it is inserted.
        let mut jobs = lock(&self.waiting);
        let task = latency.spawn.spawn(Box::pin(async move {
            sleep.await;
            let task = lock(&waiting).remove(&job.id);
            done.finish(Ok(outcome));
            if let Some(task) = task {
                task.detach();
            }
        }));
        jobs.insert(job.id, task);
    }

    fn cancel(&self, job: JobId) {
        self.counts.cancelled.fetch_add(1, Ordering::SeqCst);
        // Dropping the task drops its callback, which reports an error.
        let task = lock(&self.waiting).remove(&job);
        drop(task);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
