//! The records of sessions, training runs and samplers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tinkers_wire::{FinishReason, LoraConfig, SessionStatus, TinkerPath};

use crate::access::Owner;

/// What is known about a session, even after it has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SessionRecord {
    /// The number of sessions that this server had created before. It orders the sessions by age.
    pub(crate) number: u64,
    pub(crate) owner: Owner,
    /// The time of the creation, in seconds since the Unix epoch.
    pub(crate) created_at: f64,
    pub(crate) display_name: Option<String>,
    pub(crate) user_metadata: BTreeMap<String, String>,
    pub(crate) project_id: Option<String>,
    /// How the session has ended. `None` if it has not ended.
    pub(crate) end: Option<SessionEnd>,
}

/// How a session has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SessionEnd {
    /// The client finished the session, and gave this reason and this explanation.
    Finished(FinishReason, Option<String>),
    /// The server received no heartbeat for too long.
    Expired,
    /// The server was started again.
    Restarted,
}

impl SessionEnd {
    /// Returns how the session has ended, for error messages.
    pub(crate) fn how(&self) -> &'static str {
        match self {
            Self::Finished(..) => "it was finished",
            Self::Expired => "it went too long without a heartbeat",
            Self::Restarted => "the server was started again",
        }
    }
}

impl SessionRecord {
    /// Returns the status of the session in searches. Returns `None` if it is neither finished nor known to be running.
    pub(crate) fn status(&self) -> Option<SessionStatus> {
        match &self.end {
            None => Some(SessionStatus::Active),
            Some(SessionEnd::Finished(reason, detail)) => Some(SessionStatus::ClientFinished {
                reason: Some(*reason),
                detail: detail.clone(),
            }),
            Some(SessionEnd::Expired | SessionEnd::Restarted) => None,
        }
    }
}

/// What is known about a training run, even after its model was unloaded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunRecord {
    /// The id of its session.
    pub(crate) session: String,
    /// The `model_seq_id` of the request that created the model. It orders the runs of a session.
    pub(crate) number: u64,
    pub(crate) base_model: String,
    pub(crate) lora: LoraConfig,
    pub(crate) user_metadata: Option<BTreeMap<String, String>>,
    /// The time of the last request of the model, in seconds since the Unix epoch.
    pub(crate) last_request: f64,
}

/// What is known about a sampler, even after it has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SamplerRecord {
    /// The id of its session.
    pub(crate) session: String,
    /// The `sampling_session_seq_id` of the request that created the sampler. It orders the samplers of a session.
    pub(crate) number: u64,
    pub(crate) base_model: String,
    /// The path of its checkpoint. `None` if it samples from a base model or from weights in memory.
    pub(crate) model_path: Option<TinkerPath>,
}

/// The changes of a checkpoint since it was saved. The engine stores the checkpoint itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct CheckpointChange {
    /// The time of the save, in seconds since the Unix epoch. A checkpoint that replaced the changed one has another time.
    pub(crate) saved_at: f64,
    pub(crate) public: bool,
    /// The time at which the checkpoint expires, in seconds since the Unix epoch. `None` if it does not expire.
    pub(crate) expires_at: Option<f64>,
}
