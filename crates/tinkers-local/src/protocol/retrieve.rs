//! Polls for the result of one operation.

use std::sync::Arc;

use http::StatusCode;
use tinkers_wire::{PollResponse, RetrieveFuture};

use super::ids::{ExchangeId, OperationId};
use super::payload::Form;
use super::state::agenda::Alarm;
use super::state::model_queue::Position;
use super::state::polls::Poll;
use super::{Protocol, Stamp};
use crate::dialect::{Dialect, Expiry, PollEnd};
use crate::http::{Announcement, LazyResponse};
use crate::read::Refusal;

/// How many times larger than its protobuf encoding a result can be in JSON, at most. With it, the server estimates whether the
/// JSON of a result can exceed a size limit.
const JSON_GROWTH: usize = 8;

impl Protocol {
    /// Handles `POST /retrieve_future`, a poll for the result of an operation. Returns `None` if the poll is held open until the
    /// operation ends.
    pub(super) fn retrieve(
        &mut self,
        at: Stamp,
        exchange: ExchangeId,
        body: &RetrieveFuture,
        form: Form,
    ) -> Result<Option<LazyResponse>, Refusal> {
        let name = &body.request_id;
        let dialect = &self.config.dialect;
        let id = self.operations.parse_request_id(name);
        let id = id.ok_or_else(|| dialect.unknown_request(name))?;
        let Some(operation) = self.operations.get(id) else {
            return Err(dialect.result_expired(name));
        };
        let poll = Poll {
            operation: id,
            form,
            metadata_only: body.allow_metadata_only,
        };
        if operation.result().is_some() {
            return Ok(Some(self.deliver(at, poll)));
        }
        if self.is_draining {
            return Ok(Some(self.try_again(id)));
        }
        self.operations.record_poll(id, at.now);
        let longest = dialect.long_poll.unwrap_or(self.config.long_poll);
        let until = at.now.after(self.jobs.poll_hold(longest));
        self.polls.hold(&mut self.agenda, exchange, poll, until);
        Ok(None)
    }

    /// Returns the response to a poll whose operation has ended: the result, the error, or a notice that the result is large.
    pub(super) fn deliver(&mut self, at: Stamp, poll: Poll) -> LazyResponse {
        let id = poll.operation;
        let Some(operation) = self.operations.get(id) else {
            let name = self.operations.request_id(id);
            return self.config.dialect.result_expired(&name).into_response();
        };
        let Some(result) = operation.result() else {
            return self.try_again(id);
        };
        let mut fetched = true;
        let response = match result {
            Err(error) => self.config.dialect.failure(error),
            Ok(payload) => {
                let form = payload.form(poll.form);
                let announcement = poll.metadata_only.then(|| Announcement {
                    request_id: self.operations.request_id(id),
                    above: self.config.large_result,
                });
                match (announcement, payload.known_size(form)) {
                    (Some(announcement), Some(size)) if size > announcement.above => {
                        return LazyResponse::ok(&announcement.body(size));
                    }
                    // The JSON is encoded without the lock, and its size is known only then. A result that may turn out to be
                    // announced does not count as fetched.
                    (Some(announcement), None) => {
                        fetched = payload.kept_bytes() < announcement.above / JSON_GROWTH;
                        LazyResponse::result(Arc::clone(payload), form, Some(announcement))
                    }
                    _ => LazyResponse::result(Arc::clone(payload), form, None),
                }
            }
        };
        if !fetched {
            return response;
        }
        self.completions.remove(id);
        if self.config.dialect.expiry == Expiry::OnceFetched {
            self.forget(id);
            return response;
        }
        let expires = at.now.after(self.config.keep_fetched);
        if self.operations.fetched(id, expires) {
            self.agenda.add(expires, Alarm::Result(id));
        }
        response
    }

    /// Returns the response to a poll whose operation has not ended in the time for which the server holds polls open.
    fn try_again(&self, id: OperationId) -> LazyResponse {
        if self.config.dialect.poll_end == PollEnd::Timeout {
            return Dialect::timed_out();
        }
        let (queue, paused) = self.jobs.queue_state();
        let reason = paused.map(str::to_owned).or_else(|| self.reason(id));
        let body = PollResponse::try_again_body(
            &self.operations.request_id(id),
            &queue,
            reason.as_deref(),
        );
        LazyResponse::json(StatusCode::OK, &body)
    }

    /// Returns the reason why a queued operation has not started, such as its position in the queue. Returns `None` if it is
    /// running, next in the queue, or a sample.
    fn reason(&self, id: OperationId) -> Option<String> {
        let model = self.operations.get(id)?.model()?;
        match self.models.get(model)?.queue().position(id) {
            Position::Running | Position::Behind(0) => None,
            Position::Behind(1) => Some("queued behind one request of the same model".to_owned()),
            Position::Behind(n) => Some(format!("queued behind {n} requests of the same model")),
            Position::Missing(number) => Some(format!(
                "waiting for seq_id {number} of {model}, which has not come; without it this request fails {:?} after the wait began",
                self.config.gap_timeout
            )),
        }
    }

    /// Handles the end of the time for which a poll is held open: responds with "try again" to a poll for a single result, or with
    /// an empty list to a poll for completed samples.
    pub(super) fn poll_is_due(&mut self, exchange: ExchangeId) {
        if let Some(poll) = self.polls.release(&mut self.agenda, exchange) {
            let response = self.try_again(poll.operation);
            self.respond(exchange, response);
        }
        self.answer_completion_poll(exchange);
    }

    /// Deletes a result if it has expired. Called at the time for which its expiry was planned.
    pub(super) fn result_is_due(&mut self, at: Stamp, id: OperationId) {
        if self.operations.is_expired(id, at.now) {
            self.completions.remove(id);
            self.forget(id);
        }
    }
}
