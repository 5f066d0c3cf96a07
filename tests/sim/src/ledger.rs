//! An engine that writes down what it applied, and whose weights are a chain of hashes over it. Answers come from the scripted
//! engine, or from the real one, which then computes the same.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tinkers::wire::{Datum, PassMode};
use tinkers_core::{Clock, ManualClock, Spawn, Task};
use tinkers_local::{
    BaseModel, CheckpointRecord, Done, Engine, EngineError, Job, JobId, Outcome, ScriptedEngine,
    Work,
};

use crate::chance::Chance;
use crate::misfortune::Misfortune;
use crate::op::Op;
use crate::real::RealEngine;
use crate::trace::{Hash, Trace};

/// Something that a model was made to do, with the number of the call that asked for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Piece {
    /// One datum of a forward pass: call and place.
    Forward(u32, u32),
    /// One datum of a pass with gradients: call and place.
    Backward(u32, u32),
    /// A step.
    Step(u32),
    /// A save of weights and optimizer.
    Save(u32),
    /// A save of weights to sample from.
    Export(u32),
    /// A load of what a call saved.
    Load(u32),
}

/// Weights and gradients of a model as hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    /// The weights.
    pub weights: u64,
    /// The gradients held.
    pub gradients: u64,
}

impl Weights {
    /// A new adapter.
    pub const NEW: Self = Self {
        weights: Hash::START,
        gradients: 0,
    };

    /// What becomes of them by `piece`; `saved` has what a call saved.
    pub fn apply(&mut self, piece: &Piece, saved: &BTreeMap<u32, u64>) {
        let mix = |hash: u64, a: u64, b: u64| {
            Hash::of(Hash::of(hash, &a.to_le_bytes()), &b.to_le_bytes())
        };
        match *piece {
            Piece::Backward(call, place) => {
                self.gradients = mix(self.gradients, call.into(), place.into());
            }
            Piece::Step(call) => {
                self.weights = mix(self.weights, self.gradients, call.into());
                self.gradients = 0;
            }
            Piece::Load(call) => {
                self.weights = saved.get(&call).copied().unwrap_or(0);
                self.gradients = 0;
            }
            Piece::Forward(..) | Piece::Save(_) | Piece::Export(_) => {}
        }
    }
}

/// What a model did, in order, and where that led.
#[derive(Debug, Clone)]
pub struct Record {
    /// The save that it was made of, by its call.
    pub from: Option<u32>,
    /// What it did.
    pub pieces: Vec<Piece>,
    /// Where that led.
    pub weights: Weights,
}

/// The engine.
pub struct LedgerEngine {
    answers: Answers,
    latency: Duration,
    clock: ManualClock,
    spawn: Arc<dyn Spawn>,
    chance: Chance,
    misfortune: Arc<Misfortune>,
    trace: Trace,
    /// A negative control: what is applied twice.
    twice: Option<Op>,
    state: Mutex<State>,
    waiting: Arc<Mutex<BTreeMap<JobId, Task>>>,
}

#[derive(Default)]
struct State {
    models: BTreeMap<String, Record>,
    saved: BTreeMap<u32, u64>,
    checkpoints: Vec<CheckpointRecord>,
}

/// Where the outcomes of jobs come from.
#[derive(Debug)]
pub enum Answers {
    /// They are canned.
    Scripted(Box<ScriptedEngine>),
    /// They are computed.
    Real(Box<RealEngine>),
}

/// The parts of a [`LedgerEngine`].
#[derive(Debug)]
pub struct LedgerParts {
    /// Where outcomes come from.
    pub answers: Answers,
    /// How long a job takes at most.
    pub latency: Duration,
    /// Time.
    pub clock: ManualClock,
    /// Tasks of the server.
    pub spawn: Arc<dyn Spawn>,
    /// Chance.
    pub chance: Chance,
    /// Whether a job fails.
    pub misfortune: Arc<Misfortune>,
    /// Where it is written down.
    pub trace: Trace,
    /// A negative control: what is applied twice.
    pub twice: Option<Op>,
}

impl LedgerEngine {
    /// An engine that has done nothing.
    pub fn new(parts: LedgerParts) -> Self {
        Self {
            answers: parts.answers,
            latency: parts.latency,
            clock: parts.clock,
            spawn: parts.spawn,
            chance: parts.chance,
            misfortune: parts.misfortune,
            trace: parts.trace,
            twice: parts.twice,
            state: Mutex::default(),
            waiting: Arc::default(),
        }
    }

    /// What each model did.
    pub fn records(&self) -> BTreeMap<String, Record> {
        lock(&self.state).models.clone()
    }

    /// What was saved, by the call that asked for it.
    pub fn saved(&self) -> BTreeMap<u32, u64> {
        lock(&self.state).saved.clone()
    }

    /// The real engine, where it is the one that computes.
    pub fn real(&self) -> Option<&RealEngine> {
        match &self.answers {
            Answers::Scripted(_) => None,
            Answers::Real(real) => Some(real),
        }
    }

    /// Does a job, and writes down what it did; its outcome comes by `answer`.
    fn take(&self, job: &Job, answer: Done) -> Result<(), EngineError> {
        match &self.answers {
            Answers::Scripted(scripted) => {
                self.perform(&job.work)?;
                scripted.start(job.clone(), answer);
            }
            Answers::Real(real) => {
                let outcome = real.run(job)?;
                self.perform(&job.work)?;
                answer.finish(Ok(outcome));
            }
        }
        Ok(())
    }

    fn perform(&self, work: &Work) -> Result<(), EngineError> {
        let mut state = lock(&self.state);
        let state = &mut *state;
        let is_twice = self.twice.is_some() && self.twice == op_of(work);
        let times = if is_twice { 2 } else { 1 };
        match work {
            Work::CreateModel { model, .. } => state.create(model, None)?,
            Work::CreateFromCheckpoint { model, path, .. } => {
                let from = state.find(path.as_ref())?;
                state.create(model, Some(from))?;
            }
            Work::Pass {
                model, mode, data, ..
            } => {
                for datum in data.iter().cycle().take(data.len() * times) {
                    let (call, place) = numbers(datum)?;
                    let piece = match mode {
                        PassMode::Forward => Piece::Forward(call, place),
                        PassMode::ForwardBackward => Piece::Backward(call, place),
                    };
                    state.does(model, piece)?;
                }
            }
            Work::OptimStep { model, params } => {
                let call = call_of_rate(params.learning_rate);
                for _ in 0..times {
                    state.does(model, Piece::Step(call))?;
                }
            }
            Work::Save { model, record, .. } => {
                let path = record.path.to_string();
                if state
                    .checkpoints
                    .iter()
                    .any(|kept| kept.path == record.path)
                {
                    return Err(EngineError::user(format!("{path} exists")));
                }
                if let Some((is_state, call)) = call_of(&path) {
                    let piece = if is_state {
                        Piece::Save(call)
                    } else {
                        Piece::Export(call)
                    };
                    state.does(model, piece)?;
                    let weights = state.models[model].weights.weights;
                    state.saved.insert(call, weights);
                }
                state.checkpoints.push(record.clone());
            }
            Work::LoadCheckpoint { model, path, .. } => {
                let call = state.find(path.as_ref())?;
                state.does(model, Piece::Load(call))?;
            }
            _ => {}
        }
        Ok(())
    }
}

impl State {
    fn create(&mut self, model: &str, from: Option<u32>) -> Result<(), EngineError> {
        let mut weights = Weights::NEW;
        if let Some(call) = from {
            weights.apply(&Piece::Load(call), &self.saved);
        }
        let record = Record {
            from,
            pieces: Vec::new(),
            weights,
        };
        match self.models.insert(model.to_owned(), record) {
            None => Ok(()),
            Some(_) => Err(EngineError::server(format!("{model} is there already"))),
        }
    }

    fn does(&mut self, model: &str, piece: Piece) -> Result<(), EngineError> {
        let record = self
            .models
            .get_mut(model)
            .ok_or_else(|| EngineError::server(format!("no model {model}")))?;
        record.weights.apply(&piece, &self.saved);
        record.pieces.push(piece);
        Ok(())
    }

    fn find(&self, path: &str) -> Result<u32, EngineError> {
        call_of(path)
            .map(|(_, call)| call)
            .filter(|call| self.saved.contains_key(call))
            .ok_or_else(|| EngineError::user(format!("no checkpoint {path}")))
    }
}

/// The data of a call, each of which names the call and its place.
pub fn data(call: u32, count: u32) -> Vec<Datum> {
    (0..count).map_while(|place| datum(call, place)).collect()
}

/// One of them.
pub fn datum(call: u32, place: u32) -> Option<Datum> {
    let tokens = [1 + call / 200, 1 + call % 200, 1 + place, 0];
    Datum::next_token(&tokens, vec![1.0; 3]).ok()
}

/// The learning rate of the step of a call, which names the call.
pub fn rate(call: u32) -> f64 {
    f64::from(call) * 1e-6
}

/// The call of a learning rate.
pub fn call_of_rate(rate: f64) -> u32 {
    (rate * 1e6).round() as u32
}

/// The call and the place that a datum names.
///
/// # Errors
/// When it names none.
pub fn numbers(datum: &Datum) -> Result<(u32, u32), EngineError> {
    match datum.model_input.tokens().as_deref() {
        Some([high, low, place, ..]) => Ok(((high - 1) * 200 + low - 1, place - 1)),
        _ => Err(EngineError::server("a datum of somebody else")),
    }
}

/// The prompt of a sample, which names its call.
pub fn prompt(call: u32) -> Vec<u32> {
    vec![7, call / 250, call % 250]
}

/// The call of a prompt.
pub fn call_of_prompt(tokens: &[u64]) -> Option<u32> {
    match tokens {
        [7, high, low] => u32::try_from(high * 250 + low).ok(),
        _ => None,
    }
}

/// The name under which a call saves.
pub fn save_name(is_state: bool, call: u32) -> String {
    format!("{}-{call}", if is_state { "state" } else { "export" })
}

/// Which call saved a path, and whether it was a training state.
pub fn call_of(path: &str) -> Option<(bool, u32)> {
    let (kind, call) = path.rsplit('/').next()?.split_once('-')?;
    Some((kind == "state", call.parse().ok()?))
}

/// What work is for, where a client asked for it.
pub fn op_of(work: &Work) -> Option<Op> {
    Some(match work {
        Work::Pass {
            mode: PassMode::Forward,
            ..
        } => Op::Forward,
        Work::Pass { .. } => Op::ForwardBackward,
        Work::OptimStep { .. } => Op::OptimStep,
        Work::Save { record, .. } => match call_of(record.path.as_ref()) {
            Some((true, _)) => Op::SaveState,
            _ => Op::SaveForSampler,
        },
        Work::LoadCheckpoint { .. } => Op::Load,
        Work::Sample { .. } => Op::Sample,
        _ => return None,
    })
}

impl Engine for LedgerEngine {
    fn models(&self) -> Vec<BaseModel> {
        match &self.answers {
            Answers::Scripted(scripted) => scripted.models(),
            Answers::Real(real) => real.models(),
        }
    }

    fn checkpoints(&self) -> Result<Vec<CheckpointRecord>, EngineError> {
        Ok(lock(&self.state).checkpoints.clone())
    }

    fn start(&self, job: Job, done: Done) {
        let op = op_of(&job.work);
        let fails = op.is_some_and(|op| self.misfortune.job_fails(op));
        let answer = Arc::new(Mutex::new(None::<Result<Outcome, EngineError>>));
        let kept = Arc::clone(&answer);
        let keep = Done::new(move |outcome| *lock(&kept) = Some(outcome));
        let performed = if fails {
            Err(EngineError::server("the job failed; submit it again"))
        } else {
            self.take(&job, keep)
        };
        let what = op.map_or("other", Op::name);
        self.trace.note(format_args!(
            "engine: job {} {what}{}",
            job.id.0,
            if performed.is_err() { " fails" } else { "" }
        ));
        if let Err(error) = performed {
            *lock(&answer) = Some(Err(error));
        }
        let finish = move || {
            let outcome = lock(&answer).take();
            if let Some(outcome) = outcome {
                done.finish(outcome);
            }
        };
        if self.latency.is_zero() {
            return finish();
        }
        let clock: &dyn Clock = &self.clock;
        let sleep = clock.sleep(self.chance.time(Duration::ZERO, self.latency));
        let waiting = Arc::clone(&self.waiting);
        let id = job.id;
        let mut jobs = lock(&self.waiting);
        let task = self.spawn.spawn(Box::pin(async move {
            sleep.await;
            let own = lock(&waiting).remove(&id);
            finish();
            if let Some(own) = own {
                own.detach();
            }
        }));
        jobs.insert(id, task);
    }

    fn cancel(&self, job: JobId) {
        let task = lock(&self.waiting).remove(&job);
        drop(task);
    }
}

impl fmt::Debug for LedgerEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LedgerEngine").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
