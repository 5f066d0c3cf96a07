//! An engine that records the operations that it applies, and simulates the weights of models by
//! hashes of these operations. The results come from the scripted engine or from the real engine.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tinkers::wire::PassMode;
use tinkers_core::{Clock, ManualClock, Spawn, Task};
use tinkers_local::{
    BaseModel, CheckpointRecord, Engine, EngineError, Job, JobCallback, JobId, Outcome,
    ScriptedEngine, Work,
};

use crate::call_log::CallId;
use crate::fault_injector::FaultInjector;
use crate::op::Op;
use crate::payload;
use crate::real_engine::RealEngine;
use crate::rng::Rng;
use crate::trace::{Fnv1a, Trace};

/// An operation that the engine has applied to a model. It contains the call that requested it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ModelOp {
    /// A forward pass of one datum: the call, and the index of the datum in the call.
    Forward(CallId, u32),
    /// A forward-backward pass of one datum: the call, and the index of the datum in the call.
    ForwardBackward(CallId, u32),
    /// An optimizer step that the given call requested.
    OptimStep(CallId),
    /// A save of weights and optimizer state that the given call requested.
    SaveState(CallId),
    /// A save of weights for sampling that the given call requested.
    SaveForSampler(CallId),
    /// A load of the checkpoint that the given call has saved.
    Load(CallId),
}

/// Two hashes that stand for the weights and the accumulated gradients of a model. Each operation
/// changes the hashes that stand for the tensors which it would change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    /// A hash that stands for the weights.
    pub weights: u64,
    /// A hash that stands for the accumulated gradients.
    pub gradients: u64,
}

impl Weights {
    /// The hashes of a new adapter, which has no gradients.
    pub const INITIAL: Self = Self {
        weights: Fnv1a::EMPTY,
        gradients: 0,
    };

    /// Applies an operation to the hashes. `saved` contains the hash that stands for the weights in
    /// each checkpoint, by the call that saved the checkpoint.
    pub fn apply(&mut self, op: &ModelOp, saved: &BTreeMap<CallId, u64>) {
        let mix = |hash: u64, a: u64, b: u64| {
            Fnv1a::extend(Fnv1a::extend(hash, &a.to_le_bytes()), &b.to_le_bytes())
        };
        match *op {
            ModelOp::ForwardBackward(call, index) => {
                self.gradients = mix(self.gradients, call.into(), index.into());
            }
            ModelOp::OptimStep(call) => {
                self.weights = mix(self.weights, self.gradients, call.into());
                self.gradients = 0;
            }
            ModelOp::Load(call) => {
                self.weights = saved.get(&call).copied().unwrap_or(0);
                self.gradients = 0;
            }
            ModelOp::Forward(..) | ModelOp::SaveState(_) | ModelOp::SaveForSampler(_) => {}
        }
    }
}

/// A record of the operations that the engine has applied to a model, and its simulated weights.
#[derive(Debug, Clone)]
pub struct ModelRecord {
    /// The call that saved the checkpoint from which the model was created. `None` if it was
    /// created as a new adapter.
    pub loaded_from: Option<CallId>,
    /// The operations that the engine has applied, in order.
    pub ops: Vec<ModelOp>,
    /// The simulated weights after all operations.
    pub weights: Weights,
}

/// The engine of the simulated server. It records the operations that it applies to each model.
pub struct RecordingEngine {
    parts: RecordingEngineParts,
    state: Mutex<State>,
    /// The tasks that deliver the results of jobs. A result is computed at once, but delivered only
    /// when the simulated duration of the job has passed.
    delayed: Arc<Mutex<BTreeMap<JobId, Task>>>,
}

#[derive(Default)]
struct State {
    models: BTreeMap<String, ModelRecord>,
    /// The hash that stands for the weights in each checkpoint, by the call that saved the
    /// checkpoint.
    saved: BTreeMap<CallId, u64>,
    checkpoints: Vec<CheckpointRecord>,
}

/// The engine that computes the results of jobs.
#[derive(Debug)]
pub enum ResultSource {
    /// The scripted engine, which returns fixed results.
    Scripted(Box<ScriptedEngine>),
    /// The built-in model, which computes real tensors.
    Real(Box<RealEngine>),
}

/// The parts of a [`RecordingEngine`].
#[derive(Debug)]
pub struct RecordingEngineParts {
    /// The engine that computes the results of jobs.
    pub results: ResultSource,
    /// The maximum duration of a job.
    pub latency: Duration,
    /// The clock of the run.
    pub clock: ManualClock,
    /// The spawner for tasks of the server.
    pub spawner: Arc<dyn Spawn>,
    /// The random numbers for the durations of jobs.
    pub rng: Rng,
    /// The fault injector, which decides which jobs fail in the engine.
    pub injector: Arc<FaultInjector>,
    /// The trace of the run.
    pub trace: Trace,
    /// The operation that the engine applies twice because of the negative control, if any.
    pub applied_twice: Option<Op>,
}

impl RecordingEngine {
    /// Creates an engine that has no models.
    pub fn new(parts: RecordingEngineParts) -> Self {
        Self {
            parts,
            state: Mutex::default(),
            delayed: Arc::default(),
        }
    }

    /// Returns the records of all models, by model id.
    pub fn models_by_id(&self) -> BTreeMap<String, ModelRecord> {
        lock(&self.state).models.clone()
    }

    /// Returns the built-in model if it computes the results, or `None` if the scripted engine
    /// does.
    pub fn real(&self) -> Option<&RealEngine> {
        match &self.parts.results {
            ResultSource::Scripted(_) => None,
            ResultSource::Real(real) => Some(real),
        }
    }

    /// Runs a job, records the operations that it applies, and passes the result to the callback
    /// `done`.
    fn run(&self, job: &Job, done: JobCallback) -> Result<(), EngineError> {
        match &self.parts.results {
            ResultSource::Scripted(scripted) => {
                self.record(&job.work)?;
                scripted.start(job.clone(), done);
            }
            ResultSource::Real(real) => {
                let outcome = real.run(job)?;
                self.record(&job.work)?;
                done.finish(Ok(outcome));
            }
        }
        Ok(())
    }

    fn record(&self, work: &Work) -> Result<(), EngineError> {
        let mut state = lock(&self.state);
        let state = &mut *state;
        let twice = self.parts.applied_twice;
        let is_twice = twice.is_some() && twice == op_of(work);
        let times = if is_twice { 2 } else { 1 };
        match work {
            Work::CreateModel { model, .. } => state.create(model, None)?,
            Work::CreateFromCheckpoint { model, path, .. } => {
                let call = state.call_of_checkpoint(path.as_ref())?;
                state.create(model, Some(call))?;
            }
            Work::Pass {
                model, mode, data, ..
            } => {
                for datum in data.iter().cycle().take(data.len() * times) {
                    let (call, index) = payload::call_of_datum(datum)?;
                    let op = match mode {
                        PassMode::Forward => ModelOp::Forward(call, index),
                        PassMode::ForwardBackward => ModelOp::ForwardBackward(call, index),
                    };
                    state.apply(model, op)?;
                }
            }
            Work::OptimStep { model, params } => {
                let call = payload::call_of_learning_rate(params.learning_rate);
                for _ in 0..times {
                    state.apply(model, ModelOp::OptimStep(call))?;
                }
            }
            Work::Save { model, record, .. } => {
                let path = record.path.to_string();
                let mut checkpoints = state.checkpoints.iter();
                if checkpoints.any(|checkpoint| checkpoint.path == record.path) {
                    return Err(EngineError::user(format!("{path} exists")));
                }
                if let Some((is_state, call)) = payload::call_of_checkpoint(&path) {
                    let op = match is_state {
                        true => ModelOp::SaveState(call),
                        false => ModelOp::SaveForSampler(call),
                    };
                    state.apply(model, op)?;
                    let weights = state.models[model].weights.weights;
                    state.saved.insert(call, weights);
                }
                state.checkpoints.push(record.clone());
            }
            Work::LoadCheckpoint { model, path, .. } => {
                let call = state.call_of_checkpoint(path.as_ref())?;
                state.apply(model, ModelOp::Load(call))?;
            }
            _ => {}
        }
        Ok(())
    }
}

impl State {
    fn create(&mut self, model: &str, loaded_from: Option<CallId>) -> Result<(), EngineError> {
        let mut weights = Weights::INITIAL;
        if let Some(call) = loaded_from {
            weights.apply(&ModelOp::Load(call), &self.saved);
        }
        let record = ModelRecord {
            loaded_from,
            ops: Vec::new(),
            weights,
        };
        match self.models.insert(model.to_owned(), record) {
            None => Ok(()),
            Some(_) => Err(EngineError::server(format!("{model} exists"))),
        }
    }

    fn apply(&mut self, model: &str, op: ModelOp) -> Result<(), EngineError> {
        let record = self
            .models
            .get_mut(model)
            .ok_or_else(|| EngineError::server(format!("no model {model}")))?;
        record.weights.apply(&op, &self.saved);
        record.ops.push(op);
        Ok(())
    }

    fn call_of_checkpoint(&self, path: &str) -> Result<CallId, EngineError> {
        payload::call_of_checkpoint(path)
            .map(|(_, call)| call)
            .filter(|call| self.saved.contains_key(call))
            .ok_or_else(|| EngineError::user(format!("no checkpoint {path}")))
    }
}

/// Returns the operation of the API that requested the work of a job. Returns `None` for work that
/// no client has requested.
pub fn op_of(work: &Work) -> Option<Op> {
    Some(match work {
        Work::Pass {
            mode: PassMode::Forward,
            ..
        } => Op::Forward,
        Work::Pass { .. } => Op::ForwardBackward,
        Work::OptimStep { .. } => Op::OptimStep,
        Work::Save { record, .. } => match payload::call_of_checkpoint(record.path.as_ref()) {
            Some((true, _)) => Op::SaveState,
            _ => Op::SaveForSampler,
        },
        Work::LoadCheckpoint { .. } => Op::Load,
        Work::Sample { .. } => Op::Sample,
        _ => return None,
    })
}

impl Engine for RecordingEngine {
    fn models(&self) -> Vec<BaseModel> {
        match &self.parts.results {
            ResultSource::Scripted(scripted) => scripted.models(),
            ResultSource::Real(real) => real.models(),
        }
    }

    fn checkpoints(&self) -> Result<Vec<CheckpointRecord>, EngineError> {
        Ok(lock(&self.state).checkpoints.clone())
    }

    fn start(&self, job: Job, done: JobCallback) {
        let op = op_of(&job.work);
        let fails = op.is_some_and(|op| self.parts.injector.draw_job_failure(op));
        let result = Arc::new(Mutex::new(None::<Result<Outcome, EngineError>>));
        let slot = Arc::clone(&result);
        let store = JobCallback::new(move |outcome| *lock(&slot) = Some(outcome));
        let recorded = if fails {
            Err(EngineError::server("the job failed; submit it again"))
        } else {
            self.run(&job, store)
        };
        let (id, name) = (job.id, op.map_or("other", Op::name));
        let suffix = if recorded.is_err() { " fails" } else { "" };
        let trace = &self.parts.trace;
        trace.push(format_args!("engine: job {} {name}{suffix}", id.0));
        if let Err(error) = recorded {
            *lock(&result) = Some(Err(error));
        }
        let finish = move || {
            let result = lock(&result).take();
            if let Some(result) = result {
                done.finish(result);
            }
        };
        if self.parts.latency.is_zero() {
            return finish();
        }
        let clock: &dyn Clock = &self.parts.clock;
        let latency = self.parts.rng.duration(Duration::ZERO, self.parts.latency);
        let sleep = clock.sleep(latency);
        let delayed = Arc::clone(&self.delayed);
        let mut jobs = lock(&self.delayed);
        let task = self.parts.spawner.spawn(Box::pin(async move {
            sleep.await;
            let task = lock(&delayed).remove(&id);
            finish();
            if let Some(task) = task {
                task.detach();
            }
        }));
        jobs.insert(id, task);
    }

    fn cancel(&self, job: JobId) {
        let task = lock(&self.delayed).remove(&job);
        drop(task);
    }
}

impl fmt::Debug for RecordingEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordingEngine").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
