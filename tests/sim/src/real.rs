//! The real engine under the ledger: each job is computed before anything else happens, and what was applied can be computed
//! again without faults.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};

use tempfile::TempDir;
use tinkers::wire::{AdamParams, CheckpointKind, LoraConfig, PassMode, TinkerPath};
use tinkers_engine::ModelEngine;
use tinkers_local::{
    BaseModel, CheckpointRecord, Done, Engine, EngineError, Job, JobId, Outcome, Overwrite, Work,
};

use crate::ledger;
use crate::op::Op;
use crate::trace::Hash;

/// The numbers of jobs of our own, far from those of a server.
const OWN: u64 = 1 << 60;

/// The built-in model, trained on threads of its own. The simulation's one thread waits for the end of each job, so that the
/// threads are never seen in the order of things, and virtual time stands still meanwhile.
pub struct RealEngine {
    engine: ModelEngine,
    dir: TempDir,
    /// A negative control: what is computed twice.
    twice: Option<Op>,
    own: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What was applied, in order. Its jobs keep their ids, from which the engine draws where a request has no seed.
    applied: Vec<Job>,
    /// Models that have not been unloaded.
    live: BTreeSet<String>,
    /// What models came to.
    ends: BTreeMap<String, u64>,
    /// What was sampled, by the last token of the prompt.
    samples: BTreeMap<u32, Vec<Vec<u32>>>,
    refused: Vec<String>,
}

impl RealEngine {
    /// An engine that has done nothing, with a directory of its own; it computes `twice` what is to be found.
    ///
    /// # Errors
    /// In words, when there is no directory or no thread for it.
    pub fn new(twice: Option<Op>) -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|error| format!("no directory: {error}"))?;
        let engine = ModelEngine::builtin(dir.path()).map_err(|error| error.to_string())?;
        // Without it each engine draws its own, and no run could be repeated.
        let engine = engine.with_seed(1);
        Ok(Self {
            engine,
            dir,
            twice,
            own: AtomicU64::new(OWN),
            state: Mutex::default(),
        })
    }

    /// The base models.
    pub fn models(&self) -> Vec<BaseModel> {
        self.engine.models()
    }

    /// Computes a job, and remembers what it changed.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn run(&self, job: &Job) -> Result<Outcome, EngineError> {
        let work = &job.work;
        if let Work::UnloadModel { model } = work {
            self.end(model)?;
        }
        let outcome = self.compute(job.clone());
        let mut state = self.lock();
        match (&outcome, work) {
            (Err(error), _) => state.refused.push(format!("{work:?}: {error}")),
            (Ok(_), Work::CreateModel { model, .. } | Work::CreateFromCheckpoint { model, .. }) => {
                state.live.insert(model.clone());
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
                let tokens = response
                    .sequences
                    .iter()
                    .flat_map(|one| one.tokens.to_vec());
                let of_prompt = state.samples.entry(prompt.last().copied().unwrap_or(0));
                of_prompt.or_default().push(tokens.collect());
            }
            _ => {}
        }
        drop(state);
        if outcome.is_ok() && self.twice.is_some() && self.twice == ledger::op_of(work) {
            self.compute(job.clone())?;
        }
        outcome
    }

    /// Whether `tokens` were sampled for a prompt that ends in `last`.
    pub fn has_sampled(&self, last: u32, tokens: &[u32]) -> bool {
        let state = self.lock();
        let mut of_prompt = state.samples.get(&last).into_iter().flatten();
        of_prompt.any(|sampled| sampled == tokens)
    }

    /// What the engine refused to do.
    pub fn refused(&self) -> Vec<String> {
        self.lock().refused.clone()
    }

    /// What each model came to: its weights, its optimizer and the gradients that it held, as one number.
    ///
    /// # Errors
    /// In words, when the engine cannot tell.
    pub fn ends(&self) -> Result<BTreeMap<String, u64>, String> {
        let live = self.lock().live.clone();
        for model in live {
            self.end(&model).map_err(|error| error.to_string())?;
        }
        Ok(self.lock().ends.clone())
    }

    /// What each model comes to by the applied calls alone, each once, in order, on an engine that has done nothing else. The
    /// data are those of the callers, and not those that arrived.
    ///
    /// # Errors
    /// In words, when a call cannot be computed again.
    pub fn faultless(&self) -> Result<BTreeMap<String, u64>, String> {
        let fresh = Self::new(None)?;
        let applied = self.lock().applied.clone();
        let mut seen = BTreeSet::new();
        for Job { id, work } in applied {
            let again = format!("{work:?}");
            let failed = |error: EngineError| format!("{again} is not done again: {error}");
            if let Some(work) = once(work, &mut seen).map_err(failed)? {
                fresh.run(&Job { id, work }).map_err(failed)?;
            }
        }
        fresh.ends()
    }

    /// A model is at its end. A last step makes the gradients that it holds count.
    fn end(&self, model: &str) -> Result<(), EngineError> {
        if !self.lock().live.remove(model) {
            return Ok(());
        }
        let step = Work::OptimStep {
            model: model.to_owned(),
            params: AdamParams::new(1e-3),
        };
        self.compute(self.own_job(step))?;
        let name = format!("{:016x}", Hash::of(Hash::START, model.as_bytes()));
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
            },
            overwrite: Overwrite::Refuse,
        };
        self.compute(self.own_job(save))?;
        let file = Path::new("checkpoints/end/weights").join(format!("{name}.safetensors"));
        let bytes = std::fs::read(self.dir.path().join(file))
            .map_err(|error| EngineError::server(error.to_string()))?;
        let end = Hash::of(Hash::START, tensors(&bytes));
        self.lock().ends.insert(model.to_owned(), end);
        Ok(())
    }

    fn own_job(&self, work: Work) -> Job {
        let id = JobId(self.own.fetch_add(1, Ordering::Relaxed));
        Job { id, work }
    }

    fn compute(&self, job: Job) -> Result<Outcome, EngineError> {
        let (sender, ended) = mpsc::channel();
        let done = Done::new(move |outcome| drop(sender.send(outcome)));
        self.engine.start(job, done);
        ended
            .recv()
            .unwrap_or_else(|_| Err(EngineError::server("the engine is gone")))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a safetensors file holds behind its header, whose entries have no order.
fn tensors(file: &[u8]) -> &[u8] {
    let header = file.first_chunk().map_or(0, |len| u64::from_le_bytes(*len));
    file.get(8 + header as usize..).unwrap_or_default()
}

/// Work as its caller asked for it; `None` where the same call was `seen` before.
fn once(work: Work, seen: &mut BTreeSet<(u32, u32)>) -> Result<Option<Work>, EngineError> {
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
            let mut asked = Vec::new();
            for datum in &data {
                let (call, place) = ledger::numbers(datum)?;
                if seen.insert((call, place)) {
                    asked.extend(ledger::datum(call, place));
                }
            }
            let pass = Work::Pass {
                model,
                mode,
                data: asked,
                loss,
            };
            matches!(&pass, Work::Pass { data, .. } if !data.is_empty()).then_some(pass)
        }
        Work::OptimStep { model, params } => {
            let call = ledger::call_of_rate(params.learning_rate);
            // A step has no places.
            seen.insert((call, u32::MAX)).then(|| Work::OptimStep {
                model,
                params: AdamParams::new(ledger::rate(call)),
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
