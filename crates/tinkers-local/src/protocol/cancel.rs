//! The cancellation of samples: on request, or after the client disconnected and did not poll again.

use tinkers_wire::CancelFuture;

use super::ids::OperationId;
use super::state::agenda::Alarm;
use super::state::completions::target_of;
use super::state::operations::Origin;
use super::{Protocol, Stamp};
use crate::http::LazyResponse;
use crate::read::Refusal;

impl Protocol {
    /// Handles `POST /cancel_future`, which cancels a sample. Has no effect on a sample that has ended.
    pub(super) fn cancel_future(&mut self, body: &CancelFuture) -> Result<LazyResponse, Refusal> {
        let name = &body.request_id;
        let dialect = &self.config.dialect;
        let id = self.operations.parse_request_id(name);
        let id = id.ok_or_else(|| dialect.unknown_request(name))?;
        match self.operations.get(id) {
            None => return Err(dialect.result_expired(name)),
            Some(operation) if !operation.is_sample() => {
                let reason = "expected a sampling request, the only kind that can be cancelled";
                return Err(Refusal::field("request_id", reason));
            }
            Some(_) => {}
        }
        self.cancel(id, "its client cancelled it");
        Ok(LazyResponse::ok(&serde_json::json!({})))
    }

    /// Handles the disconnect of a client during a poll for `operations`. Starts a timeout of `disconnect_timeout` for each of them
    /// that is a running sample. If the client does not poll for the sample again within this time, the sample is cancelled.
    pub(super) fn poll_disconnected(&mut self, at: Stamp, operations: &[OperationId]) {
        let due = at.now.after(self.config.disconnect_timeout);
        for id in operations {
            let operation = self.operations.get(*id);
            if operation.is_some_and(|operation| operation.is_sample() && operation.is_running()) {
                self.agenda.add(due, Alarm::Abandoned(*id));
            }
        }
    }

    /// Handles the end of `disconnect_timeout` after a client disconnected during a poll for a sample: cancels the sample if it is
    /// still running and the client has not polled again.
    pub(super) fn abandonment_is_due(&mut self, at: Stamp, id: OperationId) {
        let operation = self.operations.get(id);
        let Some(operation) = operation.filter(|operation| operation.is_running()) else {
            return;
        };
        let sampler = match operation.origin() {
            Origin::Sampler(sampler, _) => self.samplers.get(sampler),
            _ => None,
        };
        let polled = operation
            .polled()
            .max(sampler.and_then(|sampler| sampler.polled()));
        let timeout = self.config.disconnect_timeout;
        let is_abandoned = polled.is_none_or(|polled| polled.after(timeout) <= at.now);
        let target = target_of(operation.origin());
        let has_waiter = self.polls.is_waited_for(id)
            || target.is_some_and(|target| !self.completions.waiters(&target).is_empty());
        if is_abandoned && !has_waiter {
            let reason =
                format!("its client disconnected and did not come back within {timeout:?}");
            self.cancel(id, &reason);
        }
    }
}
