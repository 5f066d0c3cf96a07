//! The real engine, on which the recording engine is based, and the replay of its applied jobs
//! without faults.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};

use tempfile::TempDir;
use tinkers::wire::{AdamParams, CheckpointKind, LoraConfig, PassMode, TinkerPath};
use tinkers_engine::ModelEngine;
use tinkers_local::{
    BaseModel, CheckpointRecord, Engine, EngineError, Job, JobCallback, JobId, Outcome, Overwrite,
    Work,
};

use crate::call_log::CallId;
use crate::op::Op;
use crate::payload;
use crate::recording_engine;
use crate::trace::Fnv1a;

/// The first id of the jobs that the simulation adds to those of the server, to read the final
/// tensors of the models. All ids that a server assigns are smaller.
const FIRST_ADDED_JOB: u64 = 1 << 60;
/// The index that stands for the optimizer step of a call when jobs are replayed without
/// repetitions. The indices of the data of passes are smaller.
const STEP_INDEX: u32 = u32::MAX;

/// The built-in model as the engine of the simulated server. It computes on its own threads, but
/// the thread of the simulation blocks until each job has ended. Therefore a run is deterministic,
/// and jobs take no virtual time.
pub struct RealEngine {
    engine: ModelEngine,
    dir: TempDir,
    /// The operation that the engine applies twice because of the negative control, if any.
    applied_twice: Option<Op>,
    next_added_job: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The jobs that the engine has applied, in order. They keep their original ids, because the
    /// engine derives random seeds from the ids.
    applied: Vec<Job>,
    /// The ids of the models that have not been unloaded.
    loaded: BTreeSet<String>,
    /// The hash of the final tensors of each model, by the id of the model.
    final_states: BTreeMap<String, u64>,
    /// The token sequences that the engine has sampled, by the last token of the prompt.
    samples: BTreeMap<u32, Vec<Vec<u32>>>,
    rejected: Vec<String>,
}

impl RealEngine {
    /// Creates an engine that has no models and stores its files in a temporary directory.
    ///
    /// # Errors
    /// Returns an error if the directory or a thread cannot be created.
    pub fn new(applied_twice: Option<Op>) -> Result<Self, String> {
        let dir = tempfile::tempdir()
            .map_err(|error| format!("cannot create a temporary directory: {error}"))?;
        let engine = ModelEngine::builtin(dir.path()).map_err(|error| error.to_string())?;
        Ok(Self {
            // Without a fixed seed, each engine would draw its own seed, and runs would not be
            // reproducible.
            engine: engine.with_seed(1),
            dir,
            applied_twice,
            next_added_job: AtomicU64::new(FIRST_ADDED_JOB),
            state: Mutex::default(),
        })
    }

    /// Returns the base models of the engine.
    pub fn models(&self) -> Vec<BaseModel> {
        self.engine.models()
    }

    /// Runs a job. If the job changes a model, records it for a later replay.
    ///
    /// # Errors
    /// Returns the errors of the engine.
    pub fn run(&self, job: &Job) -> Result<Outcome, EngineError> {
        let work = &job.work;
        if let Work::UnloadModel { model } = work {
            self.record_final_state(model)?;
        }
        let outcome = self.compute(job.clone());
        let mut state = self.lock();
        match (&outcome, work) {
            (Err(error), _) => state.rejected.push(format!("{work:?}: {error}")),
            (Ok(_), Work::CreateModel { model, .. } | Work::CreateFromCheckpoint { model, .. }) => {
                state.loaded.insert(model.clone());
                state.applied.push(job.clone());
            }
            (
                Ok(_),
                Work::Pass { .. }
                | Work::OptimStep { .. }
                | Work::Save { .. }
                | Work::LoadCheckpoint { .. },
            ) => state.applied.push(job.clone()),
            (Ok(Outcome::Sampled(response)), Work::Sample { request, .. }) => {
                let prompt = request.prompt.tokens().unwrap_or_default();
                let sequences = response.sequences.iter();
                let tokens = sequences.flat_map(|sequence| sequence.tokens.to_vec());
                let last = prompt.last().copied().unwrap_or(0);
                let samples = state.samples.entry(last).or_default();
                samples.push(tokens.collect());
            }
            _ => {}
        }
        drop(state);
        let twice = self.applied_twice;
        if outcome.is_ok() && twice.is_some() && twice == recording_engine::op_of(work) {
            self.compute(job.clone())?;
        }
        outcome
    }

    /// Returns whether the engine has sampled exactly `tokens` for a prompt that ends with
    /// `last_token`.
    pub fn has_sampled(&self, last_token: u32, tokens: &[u32]) -> bool {
        let state = self.lock();
        let mut samples = state.samples.get(&last_token).into_iter().flatten();
        samples.any(|sampled| sampled == tokens)
    }

    /// Describes the jobs that the engine has rejected, each with the error.
    pub fn rejected(&self) -> Vec<String> {
        self.lock().rejected.clone()
    }

    /// Returns, for each model, a hash of its weights, optimizer state and accumulated gradients.
    ///
    /// # Errors
    /// Returns an error if the engine fails.
    pub fn final_states(&self) -> Result<BTreeMap<String, u64>, String> {
        let loaded = self.lock().loaded.clone();
        for model in loaded {
            self.record_final_state(&model)
                .map_err(|error| error.to_string())?;
        }
        Ok(self.lock().final_states.clone())
    }

    /// Replays the applied jobs in order on a new engine, each job once, and returns the hashes of
    /// the models' final tensors. Uses the data that the program passed to its calls, and not the
    /// data that the server has received.
    ///
    /// # Errors
    /// Returns an error if a job cannot be replayed.
    pub fn replayed_states(&self) -> Result<BTreeMap<String, u64>, String> {
        let replay = Self::new(None)?;
        let applied = self.lock().applied.clone();
        let mut replayed = BTreeSet::new();
        for Job { id, work } in applied {
            let description = format!("{work:?}");
            let failed = |error: EngineError| format!("cannot replay {description}: {error}");
            if let Some(work) = without_repetitions(work, &mut replayed).map_err(failed)? {
                replay.run(&Job { id, work }).map_err(failed)?;
            }
        }
        replay.final_states()
    }

    /// Records the hash of the final tensors of a model. First applies an optimizer step, so that
    /// the accumulated gradients affect the hash.
    fn record_final_state(&self, model: &str) -> Result<(), EngineError> {
        if !self.lock().loaded.remove(model) {
            return Ok(());
        }
        let step = Work::OptimStep {
            model: model.to_owned(),
            params: AdamParams::new(1e-3),
        };
        self.compute(self.added_job(step))?;
        let name = format!("{:016x}", Fnv1a::extend(Fnv1a::EMPTY, model.as_bytes()));
        let path = TinkerPath::new("end", CheckpointKind::Training, &name)
            .map_err(|error| EngineError::server(error.to_string()))?;
        let save = Work::Save {
            model: model.to_owned(),
            record: CheckpointRecord {
                path,
                base_model: tinkers_engine::builtin::NAME.to_owned(),
                base_fingerprint: None,
                lora: LoraConfig::rank(1),
                saved_at: 0.0,
                expires_at: None,
                size_bytes: 0,
                user_metadata: None,
                run_metadata: None,
                owner: None,
                public: false,
                project_id: None,
            },
            overwrite: Overwrite::Refuse,
        };
        self.compute(self.added_job(save))?;
        let file = Path::new("checkpoints/end/weights").join(format!("{name}.safetensors"));
        let bytes = std::fs::read(self.dir.path().join(file))
            .map_err(|error| EngineError::server(error.to_string()))?;
        let hash = Fnv1a::extend(Fnv1a::EMPTY, tensor_data(&bytes));
        self.lock().final_states.insert(model.to_owned(), hash);
        Ok(())
    }

    fn added_job(&self, work: Work) -> Job {
        let id = JobId(self.next_added_job.fetch_add(1, Ordering::Relaxed));
        Job { id, work }
    }

    /// Runs a job on the built-in model, and blocks this thread until the job has ended.
    fn compute(&self, job: Job) -> Result<Outcome, EngineError> {
        let (sender, receiver) = mpsc::channel();
        let done = JobCallback::new(move |outcome| drop(sender.send(outcome)));
        self.engine.start(job, done);
        receiver
            .recv()
            .unwrap_or_else(|_| Err(EngineError::server("the engine has stopped")))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the tensor data of a safetensors file. Leaves out the file header, whose entries have no
/// fixed order.
fn tensor_data(file: &[u8]) -> &[u8] {
    let header = file.first_chunk().map_or(0, |len| u64::from_le_bytes(*len));
    file.get(8 + header as usize..).unwrap_or_default()
}

/// Returns the work of a job as its calls requested it. Leaves out the data and optimizer steps
/// that are already in `replayed`, and adds the others to `replayed`. Returns `None` if nothing is
/// left, or if the work is a forward pass, which does not change the model.
fn without_repetitions(
    work: Work,
    replayed: &mut BTreeSet<(CallId, u32)>,
) -> Result<Option<Work>, EngineError> {
    Ok(match work {
        Work::Pass {
            mode: PassMode::Forward,
            ..
        } => None,
        Work::Pass {
            model,
            mode,
            data,
            loss,
        } => {
            let mut requested = Vec::new();
            for datum in &data {
                let (call, index) = payload::call_of_datum(datum)?;
                if replayed.insert((call, index)) {
                    requested.extend(payload::datum(call, index));
                }
            }
            let is_empty = requested.is_empty();
            let pass = Work::Pass {
                model,
                mode,
                data: requested,
                loss,
            };
            (!is_empty).then_some(pass)
        }
        Work::OptimStep { model, params } => {
            let call = payload::call_of_learning_rate(params.learning_rate);
            let is_new = replayed.insert((call, STEP_INDEX));
            is_new.then(|| Work::OptimStep {
                model,
                params: AdamParams::new(payload::learning_rate(call)),
            })
        }
        other => Some(other),
    })
}

impl fmt::Debug for RealEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RealEngine").finish_non_exhaustive()
    }
}
