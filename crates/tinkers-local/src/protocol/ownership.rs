//! Checks that requests name only sessions, models, samplers, checkpoints and operations of their own owner, or published checkpoints.

use tinkers_wire::TinkerPath;

use super::Protocol;
use super::listing::unknown_run;
use super::state::operations::Origin;
use super::state::{checkpoints, models, samplers, sessions};
use crate::access::Owner;
use crate::engine::CheckpointRecord;
use crate::read::{Command, Refusal};

impl Protocol {
    /// Checks that everything that a request names belongs to `owner`, or does not exist. A request that names something of another
    /// owner is refused as if it did not exist, so that its existence stays hidden.
    pub(super) fn check_owner(&self, owner: &Owner, command: &Command) -> Result<(), Refusal> {
        let check = Check {
            protocol: self,
            owner,
        };
        match command {
            // These name nothing, and listings contain only entries of the owner.
            Command::Health
            | Command::Capabilities
            | Command::ClientConfig
            | Command::DynamicConfig
            | Command::ExchangeKey(_)
            | Command::DescribeKey(_)
            | Command::RevokeKey(_)
            | Command::Telemetry
            | Command::CreateSession(_)
            | Command::TrainingRuns(..)
            | Command::Checkpoints(_)
            | Command::Sessions(_)
            | Command::SearchCheckpoints(_)
            | Command::SearchSessions(_)
            | Command::Audit(_)
            | Command::Usage(_)
            | Command::Storage(_)
            | Command::Trace(_)
            | Command::WindowCounts => Ok(()),
            Command::Heartbeat(body) => check.session(&body.session_id),
            Command::FinishSession(id, _)
            | Command::Session(id)
            | Command::ExportTrace(id, _)
            | Command::AssignProject(id, _) => check.session(id),
            Command::CreateModel(body, _) => check.session(&body.session_id),
            Command::ModelInfo(body) | Command::UnloadModel(body) => check.model(&body.model_id),
            Command::Pass(body, ..) => check.model(&body.model_id),
            Command::OptimStep(body, _) => check.model(&body.model_id),
            Command::SaveWeights(body, _) => check.model(&body.model_id),
            Command::SaveForSampler(body, _) => check.model(&body.model_id),
            Command::LoadWeights(body, _) => {
                check.all(&body.session_id, Check::session)?;
                check.all(&body.model_id, Check::model)?;
                check.readable(&body.path)
            }
            Command::WeightsInfo(body) => check.path(&body.tinker_path, Check::readable),
            Command::CopyWeights(body) => check.path(&body.source_path, Check::readable),
            Command::CreateSamplingSession(body, _) => {
                check.session(&body.session_id)?;
                body.model_path
                    .iter()
                    .try_for_each(|path| check.readable(path))
            }
            Command::Sampler(id) => check.sampler(id),
            Command::Sample(body, _) => {
                check.all(&body.sampling_session_id, Check::sampler)?;
                body.model_path
                    .iter()
                    .try_for_each(|path| check.readable(path))
            }
            Command::RetrieveAll(body) => check.sampler(&body.target.sampling_session_id),
            Command::Retrieve(body, _) => check.operation(&body.request_id),
            Command::Cancel(body) => check.operation(&body.request_id),
            Command::TrainingRun(id) | Command::RunCheckpoints(id) => check.run(id),
            Command::DeleteCheckpoint { run, checkpoint }
            | Command::SetPublic {
                run, checkpoint, ..
            }
            | Command::SetTtl {
                run, checkpoint, ..
            } => {
                let path = format!("tinker://{run}/{checkpoint}");
                check.path(&path, Check::checkpoint)
            }
        }
    }
}

/// A check of the names in a request of an owner.
#[derive(Clone, Copy)]
struct Check<'a> {
    protocol: &'a Protocol,
    owner: &'a Owner,
}

impl Check<'_> {
    fn session(self, id: &str) -> Result<(), Refusal> {
        self.is_own(self.protocol.records.owner_of_session(id), || {
            sessions::unknown(id)
        })
    }

    fn model(self, id: &str) -> Result<(), Refusal> {
        self.is_own(self.protocol.records.owner_of_model(id), || {
            models::unknown(id)
        })
    }

    fn sampler(self, id: &str) -> Result<(), Refusal> {
        self.is_own(self.protocol.records.owner_of_sampler(id), || {
            samplers::unknown(id)
        })
    }

    fn run(self, id: &str) -> Result<(), Refusal> {
        let mut records = self.protocol.checkpoints.iter();
        let record = records.find(|record| record.path.run_id() == Some(id));
        let of_record = record.map(CheckpointRecord::owner);
        let owner = self
            .protocol
            .records
            .owner_of_model(id)
            .or(of_record.as_ref());
        self.is_own(owner, || unknown_run(id))
    }

    fn checkpoint(self, path: &TinkerPath) -> Result<(), Refusal> {
        let of_record = self.protocol.checkpoints.get(path).ok();
        let of_record = of_record.map(CheckpointRecord::owner);
        // A checkpoint that is being saved or was deleted has no record.
        let of_run = || self.protocol.records.owner_of_model(path.run_id()?);
        let owner = of_record.as_ref().or_else(of_run);
        self.is_own(owner, || checkpoints::unknown(path))
    }

    /// Checks that the owner may read a checkpoint: its own, or a published one.
    fn readable(self, path: &TinkerPath) -> Result<(), Refusal> {
        match self.protocol.checkpoints.get(path) {
            Ok(record) if record.public => Ok(()),
            _ => self.checkpoint(path),
        }
    }

    /// Checks a path that may be invalid. The command itself refuses invalid paths.
    fn path(
        self,
        path: &str,
        check: impl Fn(Self, &TinkerPath) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let path = path.parse::<TinkerPath>();
        path.map_or(Ok(()), |path| check(self, &path))
    }

    fn operation(self, name: &str) -> Result<(), Refusal> {
        let operations = &self.protocol.operations;
        let id = operations.parse_request_id(name);
        let operation = id.and_then(|id| operations.get(id));
        let owner = operation.and_then(|operation| match operation.origin() {
            Origin::Model(model, _) => self.protocol.records.owner_of_model(model),
            Origin::Sampler(sampler, _) => self.protocol.records.owner_of_sampler(sampler),
            Origin::Free(owner) => Some(owner),
        });
        self.is_own(owner, || self.protocol.config.dialect.unknown_request(name))
    }

    fn all(
        self,
        id: &Option<String>,
        check: impl Fn(Self, &str) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        id.as_deref().map_or(Ok(()), |id| check(self, id))
    }

    /// Checks the owner of something that a request names: `None` if it does not exist.
    fn is_own(
        self,
        owner: Option<&Owner>,
        unknown: impl FnOnce() -> Refusal,
    ) -> Result<(), Refusal> {
        match owner {
            Some(owner) if owner != self.owner => Err(unknown()),
            _ => Ok(()),
        }
    }
}
