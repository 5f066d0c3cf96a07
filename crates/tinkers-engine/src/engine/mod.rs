//! The engine of the embedded server: jobs in, outcomes out, on threads of its own.

mod convert;
mod pass;
mod sampling;
mod storage;
mod training;

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use tinkers_local::engine::{
    BaseModel, CheckpointRecord, Done, Engine, EngineError, Job, JobId, Outcome, Work,
};

use crate::builtin;
use crate::checkpoint::Store;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::lock::DirLock;
use crate::lora::MAX_RANK;
use crate::model::Model;
use crate::text::Text;
use crate::threads::Threads;
use crate::weights::Weights;
use sampling::SamplerShelf;

/// Sampling threads. Two, so that a long sample does not keep a short one waiting.
const SAMPLERS: usize = 2;

/// A base model in memory, adapters in training over it, and samplers.
///
/// One thread trains: it takes the jobs of all models in the order in which they come. Two threads sample, one deletes
/// checkpoints. Each computes on pools of its own, so that sampling and training share the cores and neither waits for the other. A job that panics
/// ends with an error, and the threads go on. Dropping the engine ends jobs that wait with errors; a save that has begun
/// is finished.
pub struct ModelEngine {
    shared: Arc<Shared>,
    training: mpsc::Sender<Ticket>,
    sampling: mpsc::Sender<Ticket>,
    storage: mpsc::Sender<Ticket>,
    _lock: DirLock,
}

/// A job and its way back.
struct Ticket {
    job: Job,
    done: Done,
    cancelled: Arc<AtomicBool>,
}

/// What all threads of an engine see.
#[derive(Debug)]
struct Shared {
    name: String,
    model: Arc<Model>,
    text: Arc<Text>,
    end_tokens: Vec<u32>,
    store: Store,
    shelf: SamplerShelf,
    running: Mutex<BTreeMap<JobId, Arc<AtomicBool>>>,
    closing: AtomicBool,
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
        let model = builtin::model()?;
        Self::start(builtin::NAME.into(), model, Text::Bytes, data_dir)
    }

    /// An engine over a model in the Hugging Face layout: `config.json`, `*.safetensors`, `tokenizer.json`.
    ///
    /// The base model is named as the last part of the directory's path.
    ///
    /// # Errors
    /// As [`Self::builtin`]; [`Error::Model`] or [`Error::Tokenizer`] naming the file that is missing or not supported.
    pub fn from_model_dir(dir: &Path, data_dir: &Path) -> Result<Self> {
        let config = dir.join("config.json");
        let json = std::fs::read(&config).map_err(Error::io("cannot read", &config))?;
        let config = ModelConfig::from_json(&json)?;
        let text = Text::from_file(&dir.join("tokenizer.json"))?;
        let model = Model::new(config, Weights::from_dir(dir)?)?;
        let full = dir.canonicalize().unwrap_or_else(|_| dir.into());
        let name = full
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Self::start(name, model, text, data_dir)
    }

    fn start(name: String, model: Model, text: Text, data_dir: &Path) -> Result<Self> {
        let lock = DirLock::take(data_dir)?;
        let shared = Arc::new(Shared {
            name,
            end_tokens: model.config().end_tokens(),
            model: Arc::new(model),
            text: Arc::new(text),
            store: Store::open(&data_dir.join("checkpoints"))?,
            shelf: SamplerShelf::default(),
            running: Mutex::default(),
            closing: AtomicBool::new(false),
            seed: AtomicU64::new(0),
        });
        let (training, training_jobs) = mpsc::channel();
        let (sampling, sampling_jobs) = mpsc::channel();
        let (storage, storage_jobs) = mpsc::channel();
        let threads = Threads::new(0)?;
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
            _lock: lock,
        })
    }
}

impl Engine for ModelEngine {
    fn models(&self) -> Vec<BaseModel> {
        let config = self.shared.model.config();
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        vec![BaseModel {
            name: self.shared.name.clone(),
            arch: config.model_type.clone(),
            max_context_length: number(config.max_position_embeddings),
            vocab_size: number(config.vocab_size),
            tokenizer_id: None,
            max_lora_rank: number(MAX_RANK),
        }]
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
        let ticket = Ticket {
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
        self.shared.closing.store(true, Ordering::Relaxed);
        for cancelled in lock(&self.shared.running).values() {
            cancelled.store(true, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for ModelEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelEngine")
            .field("model", &self.shared.name)
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
        job,
        done,
        cancelled,
    } = ticket;
    let closing = shared.closing.load(Ordering::Relaxed);
    let ended = if closing || cancelled.load(Ordering::Relaxed) {
        Err(Error::Closed.into())
    } else {
        // What a panic can leave half-changed is looked after by the jobs themselves.
        catch_unwind(AssertUnwindSafe(|| run(&job, &cancelled)))
            .unwrap_or_else(|panic| Err(panicked(panic.as_ref()).into()))
    };
    lock(&shared.running).remove(&job.id);
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
