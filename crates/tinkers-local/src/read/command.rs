//! Commands: parsed requests.

use tinkers_wire::{
    AssignSessionProject, CancelFuture, CheckpointSearch, CopyWeights, CreateModel,
    CreateSamplingSession, CreateSession, FinishSession, Heartbeat, LoadWeights, ModelRef,
    OptimStep, PassRequest, RetrieveFuture, RetrieveFutures, SampleRequest, SaveWeights,
    SaveWeightsForSampler, SessionSearch, SetCheckpointTtl, WeightsInfoRequest,
};

use super::{AuditQuery, Digest, Numbered, UsagePeriod};
use crate::access::{KeyId, Owner};
use crate::protocol::Form;

/// A parsed request, with the owner in whose name it acts.
#[derive(Debug, Clone)]
pub struct AuthorizedCommand {
    pub(crate) owner: Owner,
    pub(crate) command: Command,
}

/// A parsed request.
#[derive(Debug, Clone)]
#[non_exhaustive]
#[expect(
    private_interfaces,
    reason = "made by parsing a request and used by the protocol only"
)]
#[expect(missing_docs, reason = "the names are the routes'")]
pub enum Command {
    Health,
    Capabilities,
    ClientConfig,
    DynamicConfig,
    ExchangeKey(KeyId),
    DescribeKey(KeyId),
    RevokeKey(KeyId),
    Telemetry,
    CreateSession(CreateSession),
    Heartbeat(Heartbeat),
    FinishSession(String, FinishSession),
    CreateModel(Box<CreateModel>, Digest),
    ModelInfo(ModelRef),
    UnloadModel(ModelRef),
    /// A forward or backward pass. The second field is the path of the data and the loss function in the request body, for error
    /// messages.
    Pass(Box<PassRequest>, &'static str, Digest),
    OptimStep(OptimStep, Digest),
    SaveWeights(Box<SaveWeights>, Digest),
    SaveForSampler(Box<SaveWeightsForSampler>, Digest),
    LoadWeights(Box<LoadWeights>, Digest),
    WeightsInfo(WeightsInfoRequest),
    CreateSamplingSession(CreateSamplingSession, Digest),
    Sampler(String),
    Sample(Box<SampleRequest>, Digest),
    Retrieve(RetrieveFuture, Form),
    RetrieveAll(RetrieveFutures),
    Cancel(CancelFuture),
    /// A request for a list of training runs. The second field is the project whose runs are listed, or `None` for all projects.
    TrainingRuns(Page, Option<String>),
    TrainingRun(String),
    RunCheckpoints(String),
    Checkpoints(Page),
    DeleteCheckpoint {
        run: String,
        checkpoint: String,
    },
    /// A request to publish a checkpoint, or to unpublish it.
    SetPublic {
        run: String,
        checkpoint: String,
        public: bool,
    },
    SetTtl {
        run: String,
        checkpoint: String,
        body: SetCheckpointTtl,
    },
    CopyWeights(CopyWeights),
    SearchCheckpoints(CheckpointSearch),
    SearchSessions(SessionSearch),
    AssignProject(String, AssignSessionProject),
    Sessions(Page),
    Session(String),
    Audit(AuditQuery),
    Usage(UsagePeriod),
    /// A request for the storage of checkpoints, in one project or in all projects.
    Storage(Option<String>),
    /// A request for the address of the trace of a session. The second field is the origin to which the request was sent, such as
    /// `http://localhost:8000`, if the request names one.
    ExportTrace(String, Option<String>),
    /// A download of a trace. The field is the secret part of its address.
    Trace(String),
    WindowCounts,
}

/// The part of a listing that a request asks for: how many entries to skip, and how many to return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) offset: u64,
    pub(crate) limit: u64,
}

impl Command {
    /// Returns whether the response reports neither a record nor a change of one. Such a response need not wait until changes are stored.
    pub(crate) fn reports_no_records(&self) -> bool {
        match self {
            Self::Health
            | Self::Capabilities
            | Self::ClientConfig
            | Self::DynamicConfig
            | Self::ExchangeKey(_)
            | Self::DescribeKey(_)
            | Self::RevokeKey(_)
            | Self::Telemetry
            | Self::Heartbeat(_)
            | Self::ModelInfo(_)
            | Self::UnloadModel(_)
            | Self::Pass(..)
            | Self::OptimStep(..)
            | Self::SaveWeights(..)
            | Self::SaveForSampler(..)
            | Self::Sample(..)
            | Self::Cancel(_)
            | Self::WindowCounts => true,
            // Loads the checkpoint into a model instead of creating one.
            Self::LoadWeights(body, _) => body.model_id.is_some(),
            _ => false,
        }
    }

    /// Returns the sequence number of the request, if it has one.
    pub fn seq_id(&self) -> Option<u64> {
        let number = match self {
            Self::Pass(body, ..) => body.seq_id,
            Self::OptimStep(body, _) => body.seq_id,
            Self::SaveWeights(body, _) => body.seq_id,
            Self::SaveForSampler(body, _) => body.seq_id,
            Self::LoadWeights(body, _) => return body.seq_id,
            Self::Sample(body, _) => return body.seq_id,
            Self::CreateModel(body, _) => return body.model_seq_id,
            Self::CreateSamplingSession(body, _) => return body.sampling_session_seq_id,
            _ => return None,
        };
        Some(number)
    }

    /// Returns the model id and the `seq_id` of the request. Returns `None` if the request does not have both.
    pub(crate) fn numbered(&self) -> Option<Numbered> {
        let (model, number) = match self {
            Self::Pass(body, ..) => (&body.model_id, body.seq_id),
            Self::OptimStep(body, _) => (&body.model_id, body.seq_id),
            Self::SaveWeights(body, _) => (&body.model_id, body.seq_id),
            Self::SaveForSampler(body, _) => (&body.model_id, body.seq_id),
            Self::LoadWeights(body, _) => (body.model_id.as_ref()?, body.seq_id?),
            _ => return None,
        };
        let model = model.clone();
        (number > 0).then_some(Numbered { model, number })
    }

    /// Returns a hash of the decoded request body, by which repeated requests are recognized. Returns `None` for routes on which
    /// they are not.
    pub fn fingerprint(&self) -> Option<u64> {
        match self {
            Self::Pass(.., digest)
            | Self::CreateModel(_, digest)
            | Self::OptimStep(_, digest)
            | Self::SaveWeights(_, digest)
            | Self::SaveForSampler(_, digest)
            | Self::LoadWeights(_, digest)
            | Self::CreateSamplingSession(_, digest)
            | Self::Sample(_, digest) => Some(digest.hash()),
            _ => None,
        }
    }
}
