//! The interface between the protocol and a model: the [`Engine`] trait, its jobs and their outcomes.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tinkers_wire::{
    AdamParams, Datum, FailureCategory, ForwardBackwardOutput, LoraConfig, Loss, LossFn,
    OptimStepResult, PassMode, SampleRequest, SampleResponse, TinkerPath,
};

use crate::access::Owner;

/// An engine, which runs the jobs of a server on models: training, sampling, and saving and loading of weights. The engine handles
/// only tensors. The server handles HTTP, sessions, sequence numbers and timeouts.
pub trait Engine: Send + Sync + fmt::Debug + 'static {
    /// Returns the base models that the engine offers.
    fn models(&self) -> Vec<BaseModel>;

    /// Returns the loss functions that the engine supports. The server refuses requests with other loss functions. The default is
    /// the five loss functions that every server supports.
    fn losses(&self) -> Vec<LossFn> {
        vec![
            LossFn::CrossEntropy,
            LossFn::ImportanceSampling,
            LossFn::Ppo,
            LossFn::Cispo,
            LossFn::Dro,
        ]
    }

    /// Returns the saved checkpoints. The server calls this method once, when it starts.
    ///
    /// # Errors
    ///
    /// If the checkpoint storage cannot be read.
    fn checkpoints(&self) -> Result<Vec<CheckpointRecord>, EngineError>;

    /// Starts `job` and returns at once. The engine calls `done` exactly once, from any thread. If the engine fails, panics or
    /// shuts down, it calls `done` with an error (see [`JobCallback`]).
    ///
    /// The server starts the jobs of a model one after another. It starts samples as they arrive.
    fn start(&self, job: Job, done: JobCallback);

    /// Cancels a job when no client needs the result any more. An engine that stops the job calls the `done` callback of the job
    /// with an error.
    fn cancel(&self, job: JobId) {
        let _ = job;
    }
}

/// The number of an engine job. It is unique within one server process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// A job for the engine: its number and the work to be done.
#[derive(Debug, Clone)]
pub struct Job {
    /// The number of the job.
    pub id: JobId,
    /// The work to be done.
    pub work: Work,
}

/// The work of an engine job. It names models and samplers by the ids that clients use in requests.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Work {
    /// Creates an adapter on a base model. The outcome of the job is [`Outcome::Done`].
    CreateModel {
        /// The id of the new model.
        model: String,
        /// The name of the base model, one of [`Engine::models`].
        base_model: String,
        /// The configuration of the adapter.
        lora: LoraConfig,
    },
    /// Creates an adapter from a training checkpoint. The outcome of the job is [`Outcome::Done`].
    CreateFromCheckpoint {
        /// The id of the new model.
        model: String,
        /// The path of the checkpoint.
        path: TinkerPath,
        /// Whether the state of the optimizer is restored too.
        optimizer: bool,
    },
    /// Loads a checkpoint into an existing model with the same base model and adapter shapes. The outcome is [`Outcome::Done`].
    LoadCheckpoint {
        /// The id of the model.
        model: String,
        /// The path of the checkpoint.
        path: TinkerPath,
        /// Whether the state of the optimizer is restored too.
        optimizer: bool,
    },
    /// Unloads a model. The outcome is [`Outcome::Done`], even if the model does not exist.
    UnloadModel {
        /// The id of the model.
        model: String,
    },
    /// Runs a forward pass, or a forward and a backward pass. The outcome is [`Outcome::Pass`].
    Pass {
        /// The id of the model.
        model: String,
        /// Whether the job runs only the forward pass, or also the backward pass, which accumulates gradients.
        mode: PassMode,
        /// The training examples; at least one.
        data: Vec<Datum>,
        /// The loss function and its options.
        loss: Loss,
    },
    /// Runs an optimizer step: applies the accumulated gradients to the weights and clears them. The outcome is [`Outcome::Step`].
    OptimStep {
        /// The id of the model.
        model: String,
        /// The parameters of the optimizer step.
        params: AdamParams,
    },
    /// Saves a training checkpoint (weights and optimizer state) or sampler weights to durable storage. The outcome is
    /// [`Outcome::Saved`].
    Save {
        /// The id of the model.
        model: String,
        /// The metadata to store with the weights. Its path determines the kind of checkpoint.
        record: CheckpointRecord,
        /// Whether the save replaces an existing checkpoint at the same path.
        overwrite: Overwrite,
    },
    /// Copies the current weights of a model into memory, so that clients can sample from the copy. The outcome is
    /// [`Outcome::Done`].
    Snapshot {
        /// The id of the model.
        model: String,
        /// The id of the sampler that will use the copy.
        sampler: String,
    },
    /// Drops the weights that a [`Work::Snapshot`] has stored in memory. The outcome is [`Outcome::Done`], even if there are no
    /// such weights.
    DropSnapshot {
        /// The id of the sampler for which the weights were copied.
        sampler: String,
    },
    /// Deletes a checkpoint. The outcome is [`Outcome::Done`], even if the checkpoint does not exist.
    DeleteCheckpoint {
        /// The path of the checkpoint.
        path: TinkerPath,
    },
    /// Copies a checkpoint durably. The outcome is [`Outcome::Saved`].
    CopyCheckpoint {
        /// The path of the checkpoint to copy.
        source: TinkerPath,
        /// The metadata of the copy, with its path.
        record: CheckpointRecord,
    },
    /// Samples from a model. The outcome is [`Outcome::Sampled`].
    Sample {
        /// The weights to sample from.
        weights: SamplerWeights,
        /// The prompt and the parameters. The engine ignores the fields that name a sampler or model.
        request: Box<SampleRequest>,
    },
}

/// Whether a save may replace an existing checkpoint at the same path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a boolean with a name")]
pub enum Overwrite {
    /// The save fails if the checkpoint exists.
    Refuse,
    /// The save replaces an existing checkpoint atomically: a concurrent reader gets either the old or the new checkpoint, never a
    /// mixture.
    Replace,
}

/// The weights that a sample is drawn from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "engines handle each kind of weights"
)]
pub enum SamplerWeights {
    /// The weights of a base model, by name.
    Base(String),
    /// A checkpoint of training or sampler weights.
    Checkpoint(TinkerPath),
    /// Weights that a [`Work::Snapshot`] has copied into memory, by the id of the sampler.
    Snapshot(String),
}

/// The outcome of a successful engine job.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[expect(
    clippy::large_enum_variant,
    reason = "one is made for each job and consumed at once"
)]
pub enum Outcome {
    /// The job succeeded and has no result.
    Done,
    /// The outputs of a forward pass, or of a forward and a backward pass.
    Pass(ForwardBackwardOutput),
    /// The metrics of an optimizer step.
    Step(OptimStepResult),
    /// A checkpoint was saved.
    Saved {
        /// The size of the checkpoint on disk, in bytes.
        size_bytes: u64,
    },
    /// The sampled sequences.
    Sampled(SampleResponse),
}

/// The error of a failed engine job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EngineError {
    /// Whether the client or the server caused the failure.
    pub category: FailureCategory,
    /// The reason, in lower case and without a full stop. If the caller caused the failure, the reason names the invalid field.
    pub message: String,
}

impl EngineError {
    /// Creates an error for a failure that the caller caused, for example by invalid data.
    pub fn user(message: impl Into<String>) -> Self {
        Self {
            category: FailureCategory::User,
            message: message.into(),
        }
    }

    /// Creates an error for a failure that the engine caused.
    pub fn server(message: impl Into<String>) -> Self {
        Self {
            category: FailureCategory::Server,
            message: message.into(),
        }
    }
}

/// A callback that receives the outcome of an engine job. It is called exactly once. If it is dropped without a call, for instance
/// because the engine panics, it reports an error, so that every job ends.
pub struct JobCallback(Option<Callback>);

type Callback = Box<dyn FnOnce(Result<Outcome, EngineError>) + Send>;

impl JobCallback {
    /// Creates a callback that passes the outcome of a job to `callback`, exactly once.
    pub fn new(callback: impl FnOnce(Result<Outcome, EngineError>) + Send + 'static) -> Self {
        Self(Some(Box::new(callback)))
    }

    /// Reports the outcome of the job to the server.
    pub fn finish(mut self, outcome: Result<Outcome, EngineError>) {
        if let Some(callback) = self.0.take() {
            callback(outcome);
        }
    }
}

impl Drop for JobCallback {
    fn drop(&mut self) {
        if let Some(callback) = self.0.take() {
            callback(Err(EngineError::server(
                "the engine dropped the job; see its log",
            )));
        }
    }
}

impl fmt::Debug for JobCallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobCallback").finish_non_exhaustive()
    }
}

/// A base model that an engine offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseModel {
    /// The name under which the server lists the base model.
    pub name: String,
    /// Other names under which requests may refer to the base model.
    pub aliases: Vec<String>,
    /// A hash of the weights of the base model. It distinguishes base models of the same name. `None` if the engine has no weights.
    pub fingerprint: Option<String>,
    /// The name of the model architecture.
    pub arch: String,
    /// The maximum context length in tokens.
    pub max_context_length: u32,
    /// The size of the vocabulary. Token ids are smaller than this number.
    pub vocab_size: u32,
    /// The public name of the tokenizer. `None` if the tokenizer has no public name.
    pub tokenizer_id: Option<String>,
    /// The maximum LoRA rank of adapters on this base model.
    pub max_lora_rank: u32,
}

impl BaseModel {
    /// Returns whether `name` is the name or an alias of this model. Ignores a suffix `:peft:N`, with which the hosted service
    /// selects a context length.
    pub fn is_called(&self, name: &str) -> bool {
        let is_name =
            |name: &str| self.name == name || self.aliases.iter().any(|alias| alias == name);
        is_name(name) || without_variant(name).is_some_and(is_name)
    }

    /// Returns the reason why a checkpoint cannot be used with this base model. Returns `None` if it can be used, or if the
    /// checkpoint or the base model has no fingerprint to compare.
    pub fn mismatch(&self, record: &CheckpointRecord) -> Option<String> {
        let (expected, found) = (
            self.fingerprint.as_ref()?,
            record.base_fingerprint.as_ref()?,
        );
        if expected == found {
            return None;
        }
        let short = |fingerprint: &str| fingerprint.chars().take(12).collect::<String>();
        Some(format!(
            "{} was saved on the base model {} (fingerprint {}), but this server has {} (fingerprint {}); serve the model that \
             it was saved on",
            record.path,
            record.base_model,
            short(found),
            self.name,
            short(expected)
        ))
    }
}

/// Returns the part of a model name before the suffix `:peft:N`, or `None` if the name has no such suffix.
fn without_variant(name: &str) -> Option<&str> {
    let (base, length) = name.rsplit_once(":peft:")?;
    let is_number = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then_some(base)
}

/// The metadata of a checkpoint, such as its path and its base model. The engine stores it with the weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointRecord {
    /// The path of the checkpoint. The run id in the path is the id of the model.
    pub path: TinkerPath,
    /// The name of the base model.
    pub base_model: String,
    /// The hash of the weights of the base model. `None` in checkpoints that were saved before such hashes existed, or if the
    /// engine has no weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_fingerprint: Option<String>,
    /// The configuration of the adapter.
    pub lora: LoraConfig,
    /// The time of the save, in seconds since the Unix epoch.
    pub saved_at: f64,
    /// The time at which the checkpoint expires and is deleted, in seconds since the Unix epoch. `None` if it does not expire.
    #[serde(default)]
    pub expires_at: Option<f64>,
    /// The size of the checkpoint on disk, in bytes. The engine sets it.
    #[serde(default)]
    pub size_bytes: u64,
    /// The metadata that the client attached to the checkpoint when it saved it.
    #[serde(default)]
    pub user_metadata: Option<BTreeMap<String, String>>,
    /// The metadata that the client attached to the model when it created it.
    #[serde(default)]
    pub run_metadata: Option<BTreeMap<String, String>>,
    /// The owner of the checkpoint, which is the owner of its run. `None` for the owner of a server without keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Whether the checkpoint is published.
    #[serde(default)]
    pub public: bool,
    /// The project of a copied checkpoint. `None` for other checkpoints, which belong to the project of their session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<String>,
}

impl CheckpointRecord {
    pub(crate) fn owner(&self) -> Owner {
        self.owner
            .as_deref()
            .map_or_else(Owner::default, Owner::new)
    }

    /// Returns the value of the field `owner` of the checkpoints of an owner.
    pub(crate) fn stored_owner(owner: &Owner) -> Option<String> {
        (*owner != Owner::default()).then(|| owner.name().to_owned())
    }

    /// Converts a date to seconds since the Unix epoch.
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
    fn base_model_is_recognized_by_alias_and_with_a_peft_suffix() {
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
    fn checkpoint_with_another_fingerprint_does_not_match_the_model() {
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
            owner: None,
            public: false,
            project_id: None,
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
    fn dropped_engine_job_callback_reports_one_error() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let done = || {
            let seen = Arc::clone(&seen);
            JobCallback::new(move |outcome| seen.lock().unwrap().push(outcome.is_ok()))
        };
        done().finish(Ok(Outcome::Done));
        drop(done());
        assert_eq!(*seen.lock().unwrap(), [true, false]);
    }
}
