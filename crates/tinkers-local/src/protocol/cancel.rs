//! Samples that nobody wants any more: cancelled by their client, or left by it.

use tinkers_wire::CancelFuture;

use super::agenda::Alarm;
use super::operation::{Operation, Origin, State};
use super::{OperationId, Protocol, Stamp};
use crate::http::Answer;
use crate::read::Refusal;

impl Protocol {
    /// `POST /cancel_future`. Of a sample that has ended, nothing changes.
    pub(super) fn cancel_future(&mut self, body: &CancelFuture) -> Result<Answer, Refusal> {
        let name = &body.request_id;
        let dialect = &self.config.dialect;
        let id = self.ids.parse_request_id(name);
        let id = id.ok_or_else(|| dialect.no_future(name))?;
        match self.operations.get(&id) {
            None => return Err(dialect.expired(name)),
            Some(operation) if !is_sample(operation) => {
                let reason = "expected a sampling request, the only kind that can be cancelled";
                return Err(Refusal::field("request_id", reason));
            }
            Some(_) => {}
        }
        self.cancel(id, "its client cancelled it");
        Ok(Answer::ok(&serde_json::json!({})))
    }

    /// The connection of a poll for these was cut. Whether their client comes back is seen later.
    pub(super) fn left(&mut self, at: Stamp, operations: &[OperationId]) {
        let due = at.now.after(self.config.left_timeout);
        for id in operations {
            let operation = self.operations.get(id);
            if operation.is_some_and(|operation| is_sample(operation) && is_running(operation)) {
                self.agenda.add(due, Alarm::Left(*id));
            }
        }
    }

    /// Cancels a sample that has not been polled for since its last poll was cut.
    pub(super) fn left_is_due(&mut self, at: Stamp, id: OperationId) {
        let Some(operation) = self.operations.get(&id).filter(|one| is_running(one)) else {
            return;
        };
        let sampler = match &operation.origin {
            Origin::Sampler(sampler, _) => self.samplers.get(sampler),
            _ => None,
        };
        let polled = operation
            .polled
            .max(sampler.and_then(|sampler| sampler.polled));
        let timeout = self.config.left_timeout;
        let is_left = polled.is_none_or(|polled| polled.after(timeout) <= at.now);
        let is_watched =
            !operation.waiters.is_empty() || self.announcements.is_watched(&operation.origin);
        if is_left && !is_watched {
            let reason =
                format!("its client disconnected and did not come back within {timeout:?}");
            self.cancel(id, &reason);
        }
    }
}

fn is_sample(operation: &Operation) -> bool {
    !matches!(operation.origin, Origin::Model(..))
}

fn is_running(operation: &Operation) -> bool {
    matches!(operation.state, State::Running(_))
}
