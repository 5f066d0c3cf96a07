//! The engine of the embedded server, which runs jobs on its own threads.

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
    BaseModel, CheckpointRecord, Engine, EngineError, Job, JobCallback, JobId, Outcome, Work,
};
use tinkers_wire::TinkerPath;

use crate::builtin;
use crate::checkpoint::Store;
use crate::error::{Error, Result};
use crate::identity::{Names, fingerprint};
use crate::lock::DirLock;
use crate::lora::MAX_RANK;
use crate::model::Model;
use crate::model_dir::ModelFiles;
use crate::text::Text;
use crate::threads::Threads;
use sampling::SamplerCache;
use writes::{PendingWrite, PendingWrites};

/// The number of threads that draw samples. There are two, so that a short sample does not wait for a long one.
const SAMPLING_THREADS: usize = 2;

/// How long the destructor of an engine waits for pending saves and checkpoint deletions.
const DROP_TIMEOUT: Duration = Duration::from_secs(30);

/// An engine that serves one base model. It trains LoRA adapters and draws samples.
///
/// One thread runs the training jobs of all models in the order of submission, two threads run samples, and one thread deletes
/// checkpoints. Training and sampling have separate thread pools, so they share the cores and do not wait for each other. A job
/// that panics fails with an error, and its thread continues. When the engine is closed with [`Self::close`] or dropped, pending
/// jobs fail, except saves and deletions of checkpoints: if they were submitted before, the engine finishes them.
pub struct ModelEngine {
    shared: Arc<Shared>,
    training: mpsc::Sender<QueuedJob>,
    sampling: mpsc::Sender<QueuedJob>,
    storage: mpsc::Sender<QueuedJob>,
}

/// An engine job with its completion callback and its cancellation flag.
struct QueuedJob {
    write: Option<PendingWrite>,
    job: Job,
    done: JobCallback,
    cancelled: Arc<AtomicBool>,
}

/// The state shared by all threads of an engine.
#[derive(Debug)]
struct Shared {
    base: BaseModel,
    model: Arc<Model>,
    text: Arc<Text>,
    end_tokens: Vec<u32>,
    store: Store,
    samplers: SamplerCache,
    /// The checkpoints without a fingerprint of their base model for which the engine has already logged a warning.
    warned_checkpoints: Mutex<BTreeSet<TinkerPath>>,
    running: Mutex<BTreeMap<JobId, Arc<AtomicBool>>>,
    closing: AtomicBool,
    writes: PendingWrites,
    /// The lock of the data directory. The engine releases it only when the last write has finished, so that no other engine opens
    /// the directory before.
    lock: Mutex<Option<DirLock>>,
    /// The base seed. Seeds for requests that have no seed are derived from it.
    seed: AtomicU64,
}

impl Shared {
    /// Returns the seed of a job whose request has no seed. Different jobs have different seeds. The seeds also depend on the base
    /// seed of the engine.
    fn seed_of(&self, job: JobId) -> u64 {
        let base = self.seed.load(Ordering::Relaxed);
        // Spreads the seeds over the whole range, so that they differ from the small seeds that users choose.
        let spread = base.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        spread
            .wrapping_add(job.0)
            .wrapping_add(0x756e_7365_6564_0000)
    }
}

impl ModelEngine {
    /// Sets the base seed for requests that have no seed. It affects samples and the initial values of adapters.
    ///
    /// The default is 0. With the same base seed, the same jobs in the same order have the same outcomes in every process.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        self.shared.seed.store(seed, Ordering::Relaxed);
        self
    }

    /// Starts an engine with the built-in model that stores checkpoints in `data_dir`.
    ///
    /// # Errors
    /// Returns [`Error::InUse`] if another engine uses the directory, [`Error::Io`] if it cannot be read or written, and
    /// [`Error::Panicked`] if threads cannot be started.
    pub fn builtin(data_dir: &Path) -> Result<Self> {
        let config = builtin::config();
        let parts = ModelFiles {
            end_tokens: config.eos_token_id.clone(),
            config,
            text: Text::Bytes,
            weights: builtin::weights()?,
        };
        Self::start(Names::only(builtin::NAME), parts, data_dir)
    }

    /// Starts an engine with a model directory in the Hugging Face layout: `config.json`, `*.safetensors`, `tokenizer.json`.
    ///
    /// The name of the base model is the end of its path, `org/model` or `model`. Requests may use the last component alone.
    /// Checkpoints record a fingerprint of the model's contents. A checkpoint with another fingerprint is refused, even if the names
    /// match. A sample ends at any end token that is listed in `config.json`, `generation_config.json`, `tokenizer_config.json` or
    /// `special_tokens_map.json`.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`Self::builtin`], and [`Error::Model`] or [`Error::Tokenizer`] with the file that is missing or not
    /// supported. Without the feature `tokenizers` of this crate, the result is always [`Error::Tokenizer`].
    pub fn from_model_dir(dir: &Path, data_dir: &Path) -> Result<Self> {
        let names = Names::of_dir(dir).ok_or_else(|| {
            Error::Model(format!(
                "cannot derive a model name from {}; give the name",
                dir.display()
            ))
        })?;
        Self::start(names, ModelFiles::read(dir)?, data_dir)
    }

    /// Starts an engine like [`Self::from_model_dir`], and lists the model as `name`. The names that are derived from the path are
    /// aliases.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`Self::from_model_dir`].
    pub fn from_model_dir_named(dir: &Path, name: &str, data_dir: &Path) -> Result<Self> {
        let names = match Names::of_dir(dir) {
            Some(names) => names.listed_as(name),
            None => Names::only(name),
        };
        Self::start(names, ModelFiles::read(dir)?, data_dir)
    }

    fn start(names: Names, parts: ModelFiles, data_dir: &Path) -> Result<Self> {
        if let Some(advice) = advice_on_build(env!("TINKERS_ENGINE_OPT_LEVEL")) {
            tracing::warn!("{advice}");
        }
        let lock = DirLock::take(data_dir)?;
        let threads = Threads::new(0)?;
        let ModelFiles {
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
            samplers: SamplerCache::default(),
            warned_checkpoints: Mutex::default(),
            running: Mutex::default(),
            closing: AtomicBool::new(false),
            seed: AtomicU64::new(0),
            writes: PendingWrites::default(),
            lock: Mutex::new(Some(lock)),
        });
        let (training, training_jobs) = mpsc::channel();
        let (sampling, sampling_jobs) = mpsc::channel();
        let (storage, storage_jobs) = mpsc::channel();
        let mut trainer = training::TrainingWorker::new(Arc::clone(&shared), threads);
        spawn("training", &shared, training_jobs, move |job, _| {
            trainer.run(job)
        })?;
        let storage_shared = Arc::clone(&shared);
        spawn("storage", &shared, storage_jobs, move |job, _| {
            storage::run(&storage_shared, job)
        })?;
        let queue = Arc::new(Mutex::new(sampling_jobs));
        let threads = Arc::new(Threads::new(0)?);
        for _ in 0..SAMPLING_THREADS {
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

    /// Closes the engine and waits for pending saves and checkpoint deletions.
    ///
    /// New jobs, pending jobs and running samples fail with [`Error::Closed`]. Saves and deletions that were submitted before are
    /// finished and reported to the server; a save first waits for the running pass. Returns whether they finished within `timeout`. If not, they continue in
    /// the background. This function blocks, except on a thread of the engine, where it returns at once.
    pub fn close(&self, timeout: Duration) -> bool {
        self.shared.closing.store(true, Ordering::SeqCst);
        for cancelled in lock(&self.shared.running).values() {
            cancelled.store(true, Ordering::Relaxed);
        }
        let is_idle = self.shared.writes.wait(timeout);
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
                    tracing::warn!(%error, "skipping a checkpoint: cannot decode its record")
                }
            }
        }
        Ok(records)
    }

    fn start(&self, job: Job, done: JobCallback) {
        let cancelled = Arc::new(AtomicBool::new(false));
        let queue = match job.work {
            Work::Sample { .. } => {
                lock(&self.shared.running).insert(job.id, Arc::clone(&cancelled));
                &self.sampling
            }
            Work::DeleteCheckpoint { .. } | Work::CopyCheckpoint { .. } => &self.storage,
            _ => &self.training,
        };
        // The write is counted before the flag is read. So either `close` waits for this write, or this job sees the flag.
        let write = self.shared.writes.begin(&job.work);
        if self.shared.closing.load(Ordering::SeqCst) {
            drop(write);
            lock(&self.shared.running).remove(&job.id);
            done.finish(Err(Error::Closed.into()));
            return;
        }
        let queued = QueuedJob {
            write,
            job,
            done,
            cancelled,
        };
        if let Err(mpsc::SendError(queued)) = queue.send(queued) {
            lock(&self.shared.running).remove(&queued.job.id);
            queued.done.finish(Err(Error::Closed.into()));
        }
    }

    /// Cancels a sample at its next token. Other jobs cannot be cancelled.
    fn cancel(&self, job: JobId) {
        if let Some(cancelled) = lock(&self.shared.running).get(&job) {
            cancelled.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for ModelEngine {
    fn drop(&mut self) {
        self.close(DROP_TIMEOUT);
    }
}

impl fmt::Debug for ModelEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelEngine")
            .field("model", &self.shared.base.name)
            .finish_non_exhaustive()
    }
}

type JobResult = Result<Outcome, EngineError>;

/// Returns advice for a build of this crate with the optimisation level `level` of Cargo, if the engine is slow in such a build.
fn advice_on_build(level: &str) -> Option<&'static str> {
    let advice = "the embedded engine is built without optimization and is some 40 times slower; add `[profile.dev.package.\"*\"]` with `opt-level = 3` to the Cargo.toml of the workspace, or build with --release";
    (level == "0").then_some(advice)
}

/// Starts a thread that runs the jobs of a queue. No other thread runs jobs of this queue.
fn spawn(
    name: &str,
    shared: &Arc<Shared>,
    jobs: mpsc::Receiver<QueuedJob>,
    run: impl FnMut(&Job, &AtomicBool) -> JobResult + Send + 'static,
) -> Result<()> {
    spawn_shared(name, shared, &Arc::new(Mutex::new(jobs)), run)
}

/// Starts a thread that runs the jobs of a queue. Other threads may run jobs of the same queue.
fn spawn_shared(
    name: &str,
    shared: &Arc<Shared>,
    jobs: &Arc<Mutex<mpsc::Receiver<QueuedJob>>>,
    mut run: impl FnMut(&Job, &AtomicBool) -> JobResult + Send + 'static,
) -> Result<()> {
    let (shared, jobs) = (Arc::clone(shared), Arc::clone(jobs));
    let work = move || {
        writes::mark_engine_thread();
        loop {
            let next = lock(&jobs).recv();
            let Ok(queued) = next else {
                return;
            };
            finish(&shared, queued, &mut run);
        }
    };
    std::thread::Builder::new()
        .name(format!("tinkers-{name}"))
        .spawn(work)
        .map_err(|e| Error::Panicked(format!("cannot start a thread: {e}")))?;
    Ok(())
}

/// Runs one engine job and reports its outcome, even if the job panics.
fn finish(
    shared: &Shared,
    queued: QueuedJob,
    run: &mut (impl FnMut(&Job, &AtomicBool) -> JobResult + Send),
) {
    let QueuedJob {
        write,
        job,
        done,
        cancelled,
    } = queued;
    let closing = write.is_none() && shared.closing.load(Ordering::Relaxed);
    let ended = if closing || cancelled.load(Ordering::Relaxed) {
        Err(Error::Closed.into())
    } else {
        // Jobs keep shared state consistent even if they panic.
        catch_unwind(AssertUnwindSafe(|| run(&job, &cancelled)))
            .unwrap_or_else(|panic| Err(panicked(panic.as_ref()).into()))
    };
    lock(&shared.running).remove(&job.id);
    // A panic of the callback must not end the thread.
    let callback = catch_unwind(AssertUnwindSafe(|| done.finish(ended)));
    if callback.is_err() {
        tracing::error!(job = job.id.0, "the completion callback of a job panicked");
    }
    // After the callback, so that `close` also waits until the server has recorded the outcome.
    drop(write);
    // The callback may have dropped the engine, which could not wait for this write.
    if shared.closing.load(Ordering::SeqCst) && shared.writes.wait(Duration::ZERO) {
        lock(&shared.lock).take();
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
    fn engine_advises_against_a_build_without_optimization() {
        assert!(advice_on_build("0").unwrap().contains("opt-level = 3"));
        assert_eq!(advice_on_build("3"), None);
    }

    #[test]
    fn checkpoint_deletion_does_not_wait_for_training_jobs() {
        let dir = tempfile::tempdir().unwrap();
        let engine = ModelEngine::builtin(dir.path()).unwrap();
        let (release, wait) = mpsc::channel::<()>();
        let model = String::new();
        let busy = Job {
            id: JobId(1),
            work: Work::UnloadModel { model },
        };
        // The callback blocks the training thread until `release` is dropped.
        engine.start(
            busy,
            JobCallback::new(move |_| wait.recv().unwrap_or_default()),
        );
        let (sender, ended) = mpsc::channel();
        let delete = Job {
            id: JobId(2),
            work: Work::DeleteCheckpoint {
                path: "tinker://s:train:0/weights/a".parse().unwrap(),
            },
        };
        engine.start(
            delete,
            JobCallback::new(move |ended| drop(sender.send(ended))),
        );
        assert_eq!(ended.recv().unwrap(), Ok(Outcome::Done));
        drop(release);
    }

    #[test]
    fn panicking_engine_job_fails_and_its_thread_runs_the_next_job() {
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
            let done = JobCallback::new(move |outcome| {
                sender.send(outcome).unwrap();
                assert!(number != 3, "the callback panics, too");
            });
            let model = String::new();
            let job = Job {
                id: JobId(number),
                work: Work::UnloadModel { model },
            };
            let cancelled = Arc::default();
            let queued = QueuedJob {
                write: None,
                job,
                done,
                cancelled,
            };
            assert!(jobs.send(queued).is_ok());
        }
        let message = |ended: JobResult| ended.unwrap_err().message;
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
