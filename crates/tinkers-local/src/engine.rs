//! The seam between the protocol and a model: jobs in, outcomes out.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tinkers_wire::{
    AdamParams, Datum, FailureCategory, ForwardBackwardOutput, LoraConfig, Loss, LossFn,
    OptimStepResult, PassMode, SampleRequest, SampleResponse, TinkerPath,
};

/// Runs jobs on models. It knows nothing of HTTP, sessions, sequence numbers or time; the protocol knows nothing of tensors.
pub trait Engine: Send + Sync + fmt::Debug + 'static {
    /// The base models that it offers.
    fn models(&self) -> Vec<BaseModel>;

    /// The losses that it has; requests for others are refused. The five that every server has, unless it says otherwise.
    fn losses(&self) -> Vec<LossFn> {
        vec![
            LossFn::CrossEntropy,
            LossFn::ImportanceSampling,
            LossFn::Ppo,
            LossFn::Cispo,
            LossFn::Dro,
        ]
    }

    /// The checkpoints that it holds, read once at the start of a server.
    ///
    /// # Errors
    /// When the place where they are kept cannot be read.
    fn checkpoints(&self) -> Result<Vec<CheckpointRecord>, EngineError>;

    /// Starts `job` and returns at once. `done` is called exactly once, from any thread; an engine that fails, panics or
    /// shuts down calls it with an error (see [`Done`]).
    ///
    /// The protocol starts the jobs of one model one after the other, and samples whenever they come.
    fn start(&self, job: Job, done: Done);

    /// Nobody waits for this job any more. An engine may stop it, and then calls its `done` with an error.
    fn cancel(&self, job: JobId) {
        let _ = job;
    }
}

/// The number of a job, unique in the server's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// Something for the engine to do.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// What it is.
    pub work: Work,
}

/// What a job is. Models and samplers are named by the protocol's ids.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Work {
    /// A new adapter over a base model. Gives [`Outcome::Done`].
    CreateModel {
        /// The new model's id.
        model: String,
        /// The base model's name, one of [`Engine::models`].
        base_model: String,
        /// The adapter.
        lora: LoraConfig,
    },
    /// A new adapter from a training checkpoint. Gives [`Outcome::Done`].
    CreateFromCheckpoint {
        /// The new model's id.
        model: String,
        /// The checkpoint.
        path: TinkerPath,
        /// Whether the optimizer's state comes along.
        optimizer: bool,
    },
    /// A checkpoint into a model that is there, of the same base and shape. Gives [`Outcome::Done`].
    LoadCheckpoint {
        /// The model.
        model: String,
        /// The checkpoint.
        path: TinkerPath,
        /// Whether the optimizer's state comes along.
        optimizer: bool,
    },
    /// Forgets a model. Gives [`Outcome::Done`], also when there is none.
    UnloadModel {
        /// The model.
        model: String,
    },
    /// A pass. Gives [`Outcome::Pass`].
    Pass {
        /// The model.
        model: String,
        /// Whether gradients are added to what the model holds.
        mode: PassMode,
        /// The data; not empty.
        data: Vec<Datum>,
        /// The loss.
        loss: Loss,
    },
    /// A step with the gradients held, which are then gone. Gives [`Outcome::Step`].
    OptimStep {
        /// The model.
        model: String,
        /// The parameters.
        params: AdamParams,
    },
    /// Weights and optimizer state (training) or weights (sampler) to durable storage. Gives [`Outcome::Saved`].
    Save {
        /// The model.
        model: String,
        /// What is kept beside the weights; its path says which kind.
        record: CheckpointRecord,
        /// Whether one of the same path is replaced.
        overwrite: Overwrite,
    },
    /// The model's weights as they are now, held in memory for sampling. Gives [`Outcome::Done`].
    Snapshot {
        /// The model.
        model: String,
        /// The sampler's id.
        sampler: String,
    },
    /// Forgets a snapshot. Gives [`Outcome::Done`], also when there is none.
    DropSnapshot {
        /// The sampler's id.
        sampler: String,
    },
    /// Deletes a checkpoint. Gives [`Outcome::Done`], also when there is none.
    DeleteCheckpoint {
        /// The checkpoint.
        path: TinkerPath,
    },
    /// Samples. Gives [`Outcome::Sampled`].
    Sample {
        /// From which weights.
        weights: Weights,
        /// Prompt and parameters; the addressing fields are not looked at.
        request: Box<SampleRequest>,
    },
}

/// Whether a checkpoint of the same path is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// It is an error.
    Refuse,
    /// It is replaced at once: whoever reads sees the old one or the new one.
    Replace,
}

/// What is sampled from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Weights {
    /// A base model, by name.
    Base(String),
    /// A checkpoint of either kind.
    Checkpoint(TinkerPath),
    /// A snapshot, by the sampler's id.
    Snapshot(String),
}

/// How a job ended well.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[expect(
    clippy::large_enum_variant,
    reason = "one is made for a job and taken apart at once"
)]
pub enum Outcome {
    /// There is nothing to tell.
    Done,
    /// A pass.
    Pass(ForwardBackwardOutput),
    /// A step.
    Step(OptimStepResult),
    /// A save.
    Saved {
        /// The size on disk.
        size_bytes: u64,
    },
    /// A sample.
    Sampled(SampleResponse),
}

/// How a job ended badly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EngineError {
    /// Whose fault it was.
    pub category: FailureCategory,
    /// What was wrong, as a lower-case fragment that names the field when the caller is at fault.
    pub message: String,
}

impl EngineError {
    /// The caller's fault.
    pub fn user(message: impl Into<String>) -> Self {
        Self {
            category: FailureCategory::User,
            message: message.into(),
        }
    }

    /// The engine's own fault.
    pub fn server(message: impl Into<String>) -> Self {
        Self {
            category: FailureCategory::Server,
            message: message.into(),
        }
    }
}

/// The way back for an outcome. Dropped without one, as by a panic, it reports an error: no job is ever left without an end.
pub struct Done(Option<Report>);

type Report = Box<dyn FnOnce(Result<Outcome, EngineError>) + Send>;

impl Done {
    /// Reports to `report`, exactly once.
    pub fn new(report: impl FnOnce(Result<Outcome, EngineError>) + Send + 'static) -> Self {
        Self(Some(Box::new(report)))
    }

    /// The job ended.
    pub fn finish(mut self, outcome: Result<Outcome, EngineError>) {
        if let Some(report) = self.0.take() {
            report(outcome);
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(report) = self.0.take() {
            report(Err(EngineError::server(
                "the engine dropped the job; see its log",
            )));
        }
    }
}

impl fmt::Debug for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Done").finish_non_exhaustive()
    }
}

/// A base model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseModel {
    /// The name that it is listed under.
    pub name: String,
    /// Other names that requests may use for it.
    pub aliases: Vec<String>,
    /// A hash of its contents, which tells it from another model of the same name; `None` where an engine has no weights.
    pub fingerprint: Option<String>,
    /// The architecture's name.
    pub arch: String,
    /// The longest context, in tokens.
    pub max_context_length: u32,
    /// Token ids are below this.
    pub vocab_size: u32,
    /// The tokenizer's name, when it has one outside.
    pub tokenizer_id: Option<String>,
    /// The highest LoRA rank.
    pub max_lora_rank: u32,
}

impl BaseModel {
    /// Whether a request that says `name` means this model. A suffix `:peft:N`, which selects a context length on the hosted
    /// service, is accepted and makes no difference.
    pub fn is_called(&self, name: &str) -> bool {
        let is_own = |name: &str| self.name == name || self.aliases.iter().any(|own| own == name);
        is_own(name) || without_variant(name).is_some_and(is_own)
    }

    /// Why a checkpoint does not belong to this model; `None` where it does, or where one of the two has no fingerprint.
    pub fn mismatch(&self, record: &CheckpointRecord) -> Option<String> {
        let (own, other) = (
            self.fingerprint.as_ref()?,
            record.base_fingerprint.as_ref()?,
        );
        if own == other {
            return None;
        }
        let short = |fingerprint: &str| fingerprint.chars().take(12).collect::<String>();
        Some(format!(
            "{} was saved on the base model {} (fingerprint {}), but this server has {} (fingerprint {}); serve the model that \
             it was saved on",
            record.path,
            record.base_model,
            short(other),
            self.name,
            short(own)
        ))
    }
}

/// The name before a suffix `:peft:N`.
fn without_variant(name: &str) -> Option<&str> {
    let (base, length) = name.rsplit_once(":peft:")?;
    let is_number = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then_some(base)
}

/// What is kept beside saved weights, as given at the save.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointRecord {
    /// Where it is; the run is the model's id.
    pub path: TinkerPath,
    /// The base model's name.
    pub base_model: String,
    /// The base model's fingerprint; absent from checkpoints that are older than fingerprints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_fingerprint: Option<String>,
    /// The adapter.
    pub lora: LoraConfig,
    /// When it was saved, in seconds since the Unix epoch.
    pub saved_at: f64,
    /// When it is to be deleted, in seconds since the Unix epoch.
    #[serde(default)]
    pub expires_at: Option<f64>,
    /// The size on disk; filled in by the engine.
    #[serde(default)]
    pub size_bytes: u64,
    /// The caller's own notes on the checkpoint.
    #[serde(default)]
    pub user_metadata: Option<BTreeMap<String, String>>,
    /// The caller's own notes on the model.
    #[serde(default)]
    pub run_metadata: Option<BTreeMap<String, String>>,
}

impl CheckpointRecord {
    /// A date as the record keeps it.
    pub fn seconds(date: SystemTime) -> f64 {
        date.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO)
            .as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    fn base(fingerprint: &str) -> BaseModel {
        BaseModel {
            name: "Qwen/Qwen3-8B".to_owned(),
            aliases: vec!["Qwen3-8B".to_owned()],
            fingerprint: Some(fingerprint.to_owned()),
            arch: "qwen3".to_owned(),
            max_context_length: 8,
            vocab_size: 8,
            tokenizer_id: None,
            max_lora_rank: 8,
        }
    }

    #[test]
    fn a_base_model_has_aliases_and_variants() {
        let base = base("");
        for name in [
            "Qwen/Qwen3-8B",
            "Qwen3-8B",
            "Qwen/Qwen3-8B:peft:131072",
            "Qwen3-8B:peft:1",
        ] {
            assert!(base.is_called(name), "{name}");
        }
        for name in [
            "",
            "Qwen",
            "Qwen/Qwen3-8B:peft:",
            "Qwen/Qwen3-8B:peft:x",
            "Qwen/Qwen3-8B:131072",
            "qwen/qwen3-8b",
        ] {
            assert!(!base.is_called(name), "{name}");
        }
    }

    #[test]
    fn a_checkpoint_of_another_fingerprint_does_not_belong() {
        let record = |fingerprint: Option<&str>| CheckpointRecord {
            path: "tinker://run/weights/a".parse().unwrap(),
            base_model: "other/name".to_owned(),
            base_fingerprint: fingerprint.map(str::to_owned),
            lora: LoraConfig::rank(1),
            saved_at: 0.0,
            expires_at: None,
            size_bytes: 0,
            user_metadata: None,
            run_metadata: None,
        };
        let base = base("0123456789abcdef");
        assert_eq!(base.mismatch(&record(Some("0123456789abcdef"))), None);
        assert_eq!(base.mismatch(&record(None)), None);
        let reason = base.mismatch(&record(Some("fedcba9876543210"))).unwrap();
        for part in [
            "other/name",
            "fedcba987654",
            "Qwen/Qwen3-8B",
            "0123456789ab",
        ] {
            assert!(reason.contains(part), "{reason}");
        }
    }

    #[test]
    fn a_job_that_is_dropped_reports_an_error_exactly_once() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let done = || {
            let seen = Arc::clone(&seen);
            Done::new(move |outcome| seen.lock().unwrap().push(outcome.is_ok()))
        };
        done().finish(Ok(Outcome::Done));
        drop(done());
        assert_eq!(*seen.lock().unwrap(), [true, false]);
    }
}
