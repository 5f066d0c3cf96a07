//! The ids that a server gives out: none is given twice, by this process or by an earlier one.

use std::sync::Arc;

use tinkers_core::Jitter;

use super::OperationId;
use crate::engine::JobId;

/// Makes ids.
#[derive(Debug)]
pub(super) struct Ids {
    chance: Arc<dyn Jitter>,
    /// Tells this process's request ids from those of another.
    epoch: String,
    operations: u64,
    jobs: u64,
    sessions: u64,
}

impl Ids {
    pub(super) fn new(chance: Arc<dyn Jitter>) -> Self {
        Self {
            epoch: epoch(&*chance),
            chance,
            operations: 0,
            jobs: 0,
            sessions: 0,
        }
    }

    /// Request ids that were given out before are no longer known.
    pub(super) fn start_again(&mut self) {
        self.epoch = epoch(&*self.chance);
    }

    pub(super) fn next_operation(&mut self) -> u64 {
        self.operations += 1;
        self.operations
    }

    pub(super) fn next_job(&mut self) -> JobId {
        self.jobs += 1;
        JobId(self.jobs)
    }

    /// The counter makes it unique here, whatever chance gives.
    pub(super) fn next_session(&mut self) -> String {
        self.sessions += 1;
        format!(
            "session-{:012x}{:04x}",
            self.chance.bits() >> 16,
            self.sessions
        )
    }

    pub(super) fn request_id(&self, id: OperationId) -> String {
        format!("req-{}-{}", self.epoch, id.0)
    }

    /// The operation of a request id that was given out by this process.
    pub(super) fn parse_request_id(&self, name: &str) -> Option<OperationId> {
        let number = name
            .strip_prefix("req-")?
            .strip_prefix(self.epoch.as_str())?
            .strip_prefix('-')?;
        let id = number
            .parse()
            .ok()
            .filter(|id| (1..=self.operations).contains(id))?;
        (id.to_string() == number).then_some(OperationId(id))
    }
}

fn epoch(chance: &dyn Jitter) -> String {
    format!("{:08x}", chance.bits() >> 32)
}
