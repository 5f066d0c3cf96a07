//! Polls for the completed samples of one client of a sampling session.

use std::time::Duration;

use tinkers_wire::{Completion, CompletionState, Completions, PollTarget, RetrieveFutures};

use super::ids::{ExchangeId, OperationId};
use super::state::completions::{self, Target, target_of};
use super::{Protocol, Stamp};
use crate::http::LazyResponse;
use crate::read::Refusal;

impl Protocol {
    /// Handles `POST /retrieve_futures`, a poll for the completed samples of a client. Returns `None` if the poll is held open
    /// until a sample completes.
    pub(super) fn retrieve_futures(
        &mut self,
        at: Stamp,
        exchange: ExchangeId,
        body: RetrieveFutures,
    ) -> Result<Option<LazyResponse>, Refusal> {
        let PollTarget {
            sampling_session_id: id,
            cloned_sampler_id: client,
            ..
        } = body.target;
        // Samples of a session that has ended are reported, too.
        self.samplers.known(&id)?;
        self.samplers.record_poll(&id, at.now);
        let target = (id, client);
        let hold = self.hold_for(body.timeout)?;
        let after = body.prev_cursor;
        if !self.completions.is_cursor(after) {
            let reason = format!("expected 0 or a cursor of this server, got {after}");
            return Err(Refusal::field("prev_cursor", reason));
        }
        let retrieved = self.retrieved(&target, &body.retrieved_request_ids)?;
        self.completions.acknowledge(&target, after);
        for operation in retrieved {
            self.acknowledge(operation);
        }
        let response = self.completions_after(&target, after);
        if !response.completions.is_empty() || hold.is_zero() || self.is_draining {
            return Ok(Some(LazyResponse::ok(&response)));
        }
        let until = at.now.after(hold);
        self.completions
            .hold(&mut self.agenda, exchange, &target, after, until);
        Ok(None)
    }

    /// Returns how long to hold a poll open whose `timeout` field is `timeout` seconds: this time, but at most `long_poll`.
    fn hold_for(&self, timeout: Option<f64>) -> Result<Duration, Refusal> {
        let longest = self.config.long_poll;
        let Some(seconds) = timeout else {
            return Ok(longest);
        };
        if !(seconds.is_finite() && seconds >= 0.0) {
            let reason = format!("expected seconds from 0, got {seconds}");
            return Err(Refusal::field("timeout", reason));
        }
        // Seconds that do not fit a `Duration` exceed the longest hold.
        Ok(Duration::try_from_secs_f64(seconds).map_or(longest, |hold| hold.min(longest)))
    }

    /// Returns the operations of the samples whose receipt a client acknowledges by their request ids. Omits operations that were
    /// deleted, because a client may acknowledge a sample twice.
    fn retrieved(&self, target: &Target, names: &[String]) -> Result<Vec<OperationId>, Refusal> {
        let mut found = Vec::with_capacity(names.len());
        for (i, name) in names.iter().enumerate() {
            let field = format!("retrieved_request_ids[{i}]");
            let Some(id) = self.operations.parse_request_id(name) else {
                let reason = format!("no request {name} was made to this server");
                return Err(Refusal::field(&field, reason));
            };
            let Some(operation) = self.operations.get(id) else {
                continue;
            };
            if target_of(operation.origin()).as_ref() != Some(target) {
                let reason = format!("request {name} is not one of the target's");
                return Err(Refusal::field(&field, reason));
            }
            found.push(id);
        }
        Ok(found)
    }

    /// Handles the acknowledgement of a sample by its client: deletes the sample if it has ended, and cancels it if it is still
    /// running.
    fn acknowledge(&mut self, id: OperationId) {
        self.completions.remove(id);
        let Some(operation) = self.operations.get(id) else {
            return;
        };
        if operation.result().is_some() {
            return self.forget(id);
        }
        self.operations.abandon(id);
        self.cancel(id, "its client gave it up");
    }

    /// Records the end of a sample for its client, and responds to the `retrieve_futures` polls of this client that are held open.
    pub(super) fn report_completion(&mut self, id: OperationId) {
        let Some(operation) = self.operations.get(id) else {
            return;
        };
        let (Some(target), Some(result)) = (target_of(operation.origin()), operation.result())
        else {
            return;
        };
        let payload = result.as_ref().ok();
        let size = payload.map(|payload| payload.kept_bytes() as u64);
        if operation.is_abandoned() {
            return self.forget(id);
        }
        let completion = completions::Completion {
            operation: id,
            size,
        };
        self.completions
            .add(&target, completion, self.config.max_queued);
        for exchange in self.completions.waiters(&target).to_vec() {
            self.answer_completion_poll(exchange);
        }
    }

    /// Responds to a `retrieve_futures` poll that is held open, with the completed samples of its client. Has no effect if the
    /// exchange is not such a poll.
    pub(super) fn answer_completion_poll(&mut self, exchange: ExchangeId) {
        if let Some((target, after)) = self.completions.release(&mut self.agenda, exchange) {
            let response = self.completions_after(&target, after);
            self.respond(exchange, LazyResponse::ok(&response));
        }
    }

    /// Removes a `retrieve_futures` poll whose client has disconnected. The running samples of the client are cancelled later if
    /// the client does not poll again.
    pub(super) fn completion_poll_disconnected(&mut self, at: Stamp, exchange: ExchangeId) {
        let Some((target, _)) = self.completions.release(&mut self.agenda, exchange) else {
            return;
        };
        let own = self
            .operations
            .ids_where(|operation| target_of(operation.origin()).as_ref() == Some(&*target));
        self.poll_disconnected(at, &own);
    }

    fn completions_after(&self, target: &Target, after: i64) -> Completions {
        let (completions, cursor) = self.completions.after(target, after);
        let completion = |completion: completions::Completion| Completion {
            state: match completion.size {
                Some(_) => CompletionState::Finished,
                None => CompletionState::Failed,
            },
            request_id: self.operations.request_id(completion.operation),
            response_payload_uncompressed_size: completion.size,
        };
        Completions {
            completions: completions.into_iter().map(completion).collect(),
            cursor,
        }
    }
}
