//! The engine of the embedded server: jobs in, outcomes out, on threads of its own.

mod base;
mod convert;
mod pass;
mod sampling;
mod storage;
mod training;
mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use tinkers_local::engine::{
    BaseModel, CheckpointRecord, Done, Engine, EngineError, Job, JobId, Outcome, Work,
};
use tinkers_wire::TinkerPath;

use crate::builtin;
use crate::checkpoint::Store;
use crate::error::{Error, Result};
use crate::identity::{Names, fingerprint};
use crate::lock::DirLock;
use crate::lora::MAX_RANK;
use crate::model::Model;
use crate::model_dir::Parts;
use crate::text::Text;
use crate::threads::Threads;
use sampling::SamplerShelf;
use writes::{Write, Writes};

/// Sampling threads. Two, so that a long sample does not keep a short one waiting.
const SAMPLERS: usize = 2;

/// How long dropping an engine waits for its saves and deletions.
const PATIENCE: Duration = Duration::from_secs(30);

/// A base model in memory, adapters in training over it, and samplers.
///
/// One thread trains: it takes the jobs of all models in the order in which they come. Two threads sample, one deletes
/// checkpoints. Each computes on pools of its own, so that sampling and training share the cores and neither waits for the other. A job that panics
/// ends with an error, and the threads go on. [`Self::close`] and dropping the engine end waiting jobs with errors, but finish
/// saves and deletions that the engine was given before.
pub struct ModelEngine {
    shared: Arc<Shared>,
    training: mpsc::Sender<Ticket>,
    sampling: mpsc::Sender<Ticket>,
    storage: mpsc::Sender<Ticket>,
}

/// A job and its way back.
struct Ticket {
    write: Option<Write>,
    job: Job,
    done: Done,
    cancelled: Arc<AtomicBool>,
}

/// What all threads of an engine see.
#[derive(Debug)]
struct Shared {
    base: BaseModel,
    model: Arc<Model>,
    text: Arc<Text>,
    end_tokens: Vec<u32>,
    store: Store,
    shelf: SamplerShelf,
    /// Checkpoints without a fingerprint that were warned about.
    unmarked: Mutex<BTreeSet<TinkerPath>>,
    running: Mutex<BTreeMap<JobId, Arc<AtomicBool>>>,
    closing: AtomicBool,
    writes: Writes,
    /// Held until the last write has ended, so that no other engine takes the directory before.
    lock: Mutex<Option<DirLock>>,
    /// What chance is drawn from where a request has no seed of its own.
    seed: AtomicU64,
}

impl Shared {
    /// The seed of a job that has none of its own: jobs differ, and so do engines of different seeds.
    fn seed_of(&self, job: JobId) -> u64 {
        let base = self.seed.load(Ordering::Relaxed);
        // Away from the small numbers that people choose, and no seed a neighbour of another.
        let spread = base.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        spread
            .wrapping_add(job.0)
            .wrapping_add(0x756e_7365_6564_0000)
    }
}

impl ModelEngine {
    /// The same, drawing from `seed` where a request has no seed of its own: samples, and the start of adapters. Without it the
    /// seed is 0, which suits tests: the same jobs in the same order then have the same outcomes in every process.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        self.shared.seed.store(seed, Ordering::Relaxed);
        self
    }

    /// An engine over the built-in model, with checkpoints below `data_dir`.
    ///
    /// # Errors
    /// [`Error::InUse`] where another engine has the directory, [`Error::Io`] where it cannot be used,
    /// [`Error::Panicked`] where the system gives no threads.
    pub fn builtin(data_dir: &Path) -> Result<Self> {
        let config = builtin::config();
        let parts = Parts {
            end_tokens: config.eos_token_id.clone(),
            config,
            text: Text::Bytes,
            weights: builtin::weights()?,
        };
        Self::start(Names::only(builtin::NAME), parts, data_dir)
    }

    /// An engine over a model in the Hugging Face layout: `config.json`, `*.safetensors`, `tokenizer.json`.
    ///
    /// The base model is named as its path ends, `org/model` or `model`; requests may use the last part alone. It is told from
    /// others by a fingerprint of its contents, which its checkpoints keep: one of another model is refused, whatever the names.
    /// Any end token of `config.json`, `generation_config.json`, `tokenizer_config.json` and `special_tokens_map.json` ends a
    /// sample.
    ///
    /// # Errors
    /// As [`Self::builtin`]; [`Error::Model`] or [`Error::Tokenizer`] naming the file that is missing or not supported.
    pub fn from_model_dir(dir: &Path, data_dir: &Path) -> Result<Self> {
        let names = Names::of_dir(dir).ok_or_else(|| {
            Error::Model(format!(
                "{} has no name of its own, name the model",
                dir.display()
            ))
        })?;
        Self::start(names, Parts::read(dir)?, data_dir)
    }

    /// As [`Self::from_model_dir`], listed as `name`; the names of its path are accepted too.
    ///
    /// # Errors
    /// As [`Self::from_model_dir`].
    pub fn from_model_dir_named(dir: &Path, name: &str, data_dir: &Path) -> Result<Self> {
        let names = match Names::of_dir(dir) {
            Some(names) => names.listed_as(name),
            None => Names::only(name),
        };
        Self::start(names, Parts::read(dir)?, data_dir)
    }

    fn start(names: Names, parts: Parts, data_dir: &Path) -> Result<Self> {
        let lock = DirLock::take(data_dir)?;
        let threads = Threads::new(0)?;
        let Parts {
            config,
            text,
            weights,
            end_tokens,
        } = parts;
        let fingerprint = threads.run(|| fingerprint(&config, &text, &weights));
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let base = BaseModel {
            name: names.name,
            aliases: names.aliases,
            fingerprint: Some(fingerprint),
            arch: config.model_type.clone(),
            max_context_length: number(config.max_position_embeddings),
            vocab_size: number(config.vocab_size),
            tokenizer_id: None,
            max_lora_rank: number(MAX_RANK),
        };
        let shared = Arc::new(Shared {
            base,
            end_tokens,
            model: Arc::new(Model::new(config, weights)?),
            text: Arc::new(text),
            store: Store::open(&data_dir.join("checkpoints"))?,
            shelf: SamplerShelf::default(),
            unmarked: Mutex::default(),
            running: Mutex::default(),
            closing: AtomicBool::new(false),
            seed: AtomicU64::new(0),
            writes: Writes::default(),
            lock: Mutex::new(Some(lock)),
        });
        let (training, training_jobs) = mpsc::channel();
        let (sampling, sampling_jobs) = mpsc::channel();
        let (storage, storage_jobs) = mpsc::channel();
        let mut trainer = training::Trainer::new(Arc::clone(&shared), threads);
        spawn("training", &shared, training_jobs, move |job, _| {
            trainer.run(job)
        })?;
        let keeper = Arc::clone(&shared);
        spawn("storage", &shared, storage_jobs, move |job, _| {
            storage::run(&keeper, job)
        })?;
        let queue = Arc::new(Mutex::new(sampling_jobs));
        let threads = Arc::new(Threads::new(0)?);
        for _ in 0..SAMPLERS {
            let (worker, threads) = (Arc::clone(&shared), Arc::clone(&threads));
            let run = move |job: &Job, cancelled: &AtomicBool| {
                sampling::run(&worker, &threads, job, cancelled)
            };
            spawn_shared("sampling", &shared, &queue, run)?;
        }
        Ok(Self {
            shared,
            training,
            sampling,
            storage,
        })
    }

    /// Takes no more work, ends what waits or samples with [`Error::Closed`], and waits until the saves and deletions that it was
    /// given before have ended. Whether they did within `patience`; those that did not go on.
    ///
    /// A save waits for its turn behind the pass that is running. Blocks; called on a thread of the engine it does not wait.
    pub fn close(&self, patience: Duration) -> bool {
        self.shared.closing.store(true, Ordering::SeqCst);
        for cancelled in lock(&self.shared.running).values() {
            cancelled.store(true, Ordering::Relaxed);
        }
        let is_idle = self.shared.writes.wait(patience);
        if is_idle {
            lock(&self.shared.lock).take();
        }
        is_idle
    }
}

impl Engine for ModelEngine {
    fn models(&self) -> Vec<BaseModel> {
        vec![self.shared.base.clone()]
    }

    fn checkpoints(&self) -> Result<Vec<CheckpointRecord>, EngineError> {
        let mut records = Vec::new();
        for (record, size) in self.shared.store.records()? {
            match serde_json::from_str::<CheckpointRecord>(&record) {
                Ok(mut record) => {
                    record.size_bytes = size;
                    records.push(record);
                }
                Err(error) => {
                    tracing::warn!(%error, "left out a checkpoint whose record cannot be read")
                }
            }
        }
        Ok(records)
    }

    fn start(&self, job: Job, done: Done) {
        let cancelled = Arc::new(AtomicBool::new(false));
        let queue = match job.work {
            Work::Sample { .. } => {
                lock(&self.shared.running).insert(job.id, Arc::clone(&cancelled));
                &self.sampling
            }
            Work::DeleteCheckpoint { .. } => &self.storage,
            _ => &self.training,
        };
        // Counted before the flag is read, so that `close` either sees this write or is seen by it.
        let write = self.shared.writes.begin(&job.work);
        if self.shared.closing.load(Ordering::SeqCst) {
            drop(write);
            lock(&self.shared.running).remove(&job.id);
            done.finish(Err(Error::Closed.into()));
            return;
        }
        let ticket = Ticket {
            write,
            job,
            done,
            cancelled,
        };
        if let Err(mpsc::SendError(ticket)) = queue.send(ticket) {
            lock(&self.shared.running).remove(&ticket.job.id);
            ticket.done.finish(Err(Error::Closed.into()));
        }
    }

    /// A sample stops at its next token. Other jobs run to their end: half a pass would be of no use to anybody.
    fn cancel(&self, job: JobId) {
        if let Some(cancelled) = lock(&self.shared.running).get(&job) {
            cancelled.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for ModelEngine {
    fn drop(&mut self) {
        self.close(PATIENCE);
    }
}

impl fmt::Debug for ModelEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelEngine")
            .field("model", &self.shared.base.name)
            .finish_non_exhaustive()
    }
}

type Ended = Result<Outcome, EngineError>;

/// A thread that alone takes from its queue.
fn spawn(
    name: &str,
    shared: &Arc<Shared>,
    jobs: mpsc::Receiver<Ticket>,
    run: impl FnMut(&Job, &AtomicBool) -> Ended + Send + 'static,
) -> Result<()> {
    spawn_shared(name, shared, &Arc::new(Mutex::new(jobs)), run)
}

/// A thread that takes from a queue that others take from as well.
fn spawn_shared(
    name: &str,
    shared: &Arc<Shared>,
    jobs: &Arc<Mutex<mpsc::Receiver<Ticket>>>,
    mut run: impl FnMut(&Job, &AtomicBool) -> Ended + Send + 'static,
) -> Result<()> {
    let (shared, jobs) = (Arc::clone(shared), Arc::clone(jobs));
    let work = move || {
        writes::is_engine_thread();
        loop {
            let next = lock(&jobs).recv();
            let Ok(ticket) = next else {
                return;
            };
            finish(&shared, ticket, &mut run);
        }
    };
    std::thread::Builder::new()
        .name(format!("tinkers-{name}"))
        .spawn(work)
        .map_err(|e| Error::Panicked(format!("no threads: {e}")))?;
    Ok(())
}

/// Runs one job and reports its end, whatever happens in it.
fn finish(
    shared: &Shared,
    ticket: Ticket,
    run: &mut (impl FnMut(&Job, &AtomicBool) -> Ended + Send),
) {
    let Ticket {
        write,
        job,
        done,
        cancelled,
    } = ticket;
    let closing = write.is_none() && shared.closing.load(Ordering::Relaxed);
    let ended = if closing || cancelled.load(Ordering::Relaxed) {
        Err(Error::Closed.into())
    } else {
        // What a panic can leave half-changed is looked after by the jobs themselves.
        catch_unwind(AssertUnwindSafe(|| run(&job, &cancelled)))
            .unwrap_or_else(|panic| Err(panicked(panic.as_ref()).into()))
    };
    lock(&shared.running).remove(&job.id);
    // Before the report, which may drop the engine.
    drop(write);
    // A report that panics must not take the thread with it.
    let reported = catch_unwind(AssertUnwindSafe(|| done.finish(ended)));
    if reported.is_err() {
        tracing::error!(job = job.id.0, "the receiver of an outcome panicked");
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".into());
    Error::Panicked(text)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<Error> for EngineError {
    fn from(error: Error) -> Self {
        let mut message = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        match error {
            Error::Input { .. } | Error::Checkpoint { .. } => Self::user(message),
            _ => Self::server(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deletion_does_not_wait_for_the_training_thread() {
        let dir = tempfile::tempdir().unwrap();
        let engine = ModelEngine::builtin(dir.path()).unwrap();
        let (go_on, wait) = mpsc::channel::<()>();
        let model = String::new();
        let busy = Job {
            id: JobId(1),
            work: Work::UnloadModel { model },
        };
        // The training thread reports, and does not get on before it is told to.
        engine.start(busy, Done::new(move |_| wait.recv().unwrap_or_default()));
        let (sender, ended) = mpsc::channel();
        let delete = Job {
            id: JobId(2),
            work: Work::DeleteCheckpoint {
                path: "tinker://s:train:0/weights/a".parse().unwrap(),
            },
        };
        engine.start(delete, Done::new(move |ended| drop(sender.send(ended))));
        assert_eq!(ended.recv().unwrap(), Ok(Outcome::Done));
        drop(go_on);
    }

    #[test]
    fn a_job_that_panics_ends_with_an_error_and_the_thread_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let engine = ModelEngine::builtin(dir.path()).unwrap();
        let (jobs, queue) = mpsc::channel();
        let run = |job: &Job, _: &AtomicBool| match job.id.0 {
            1 => panic!("on purpose"),
            2 => std::panic::panic_any(7),
            _ => Ok(Outcome::Done),
        };
        spawn("test", &engine.shared, queue, run).unwrap();
        let (sender, ended) = mpsc::channel();
        for number in 1..=4 {
            let sender = sender.clone();
            let done = Done::new(move |outcome| {
                sender.send(outcome).unwrap();
                assert!(number != 3, "the receiver panics, too");
            });
            let model = String::new();
            let job = Job {
                id: JobId(number),
                work: Work::UnloadModel { model },
            };
            let cancelled = Arc::default();
            let ticket = Ticket {
                write: None,
                job,
                done,
                cancelled,
            };
            assert!(jobs.send(ticket).is_ok());
        }
        let message = |ended: Ended| ended.unwrap_err().message;
        assert_eq!(
            message(ended.recv().unwrap()),
            "the computation panicked: on purpose"
        );
        assert_eq!(
            message(ended.recv().unwrap()),
            "the computation panicked: without a message"
        );
        assert_eq!(ended.recv().unwrap(), Ok(Outcome::Done));
        assert_eq!(ended.recv().unwrap(), Ok(Outcome::Done));
    }
}
