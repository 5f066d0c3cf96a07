//! Operations under way or ended, and the polls that ask for them.

use std::sync::Arc;

use http::StatusCode;
use tinkers_core::Moment;
use tinkers_wire::{PollAnswer, Promise, RetrieveFuture};

use super::agenda::Alarm;
use super::lane::Place;
use super::payload::Product;
use super::{ExchangeId, Goal, OperationId, Protocol, Stamp};
use crate::dialect::{Dialect, Expiry, PollEnd, Promised};
use crate::engine::{EngineError, JobId, Work};
use crate::http::{Announcement, Answer};
use crate::protocol::{Form, Payload};
use crate::read::{Digest, Refusal};

/// Something that was accepted and whose result is or will be there for polls.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) goal: Goal,
    pub(super) origin: Origin,
    pub(super) state: State,
    pub(super) waiters: Vec<ExchangeId>,
    /// Nobody will ask for its result.
    pub(super) abandoned: bool,
    /// Why it was cancelled, once it was.
    pub(super) cancelled: Option<String>,
    /// When the result goes.
    pub(super) until: Option<Moment>,
    /// When it was last polled for, once it was.
    pub(super) polled: Option<Moment>,
}

/// Where an operation belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// To a model's order, under a number.
    Model(String, u64),
    /// To a sampler, under a number when it has one.
    Sampler(String, Option<u64>),
    /// To nothing.
    Free,
}

#[derive(Debug)]
pub(super) enum State {
    Queued(Box<Work>),
    Running(JobId),
    Ended(Result<Arc<Payload>, EngineError>),
}

/// A poll that is being held.
#[derive(Debug)]
pub(super) struct Poll {
    pub(super) operation: OperationId,
    form: Form,
    metadata_only: bool,
    until: Moment,
}

/// The JSON of a result is less than so many times as long as its protobuf.
const JSON_GROWTH: usize = 8;

impl Protocol {
    /// A new operation that waits for its turn.
    pub(super) fn operation(&mut self, goal: Goal, origin: Origin, work: Work) -> OperationId {
        self.operation_in(State::Queued(Box::new(work)), goal, origin)
    }

    /// A new operation of a model that has failed already. Its number is used.
    pub(super) fn failed_operation(
        &mut self,
        at: Stamp,
        (model, number): (&str, u64),
        digest: Digest,
        error: EngineError,
    ) -> Answer {
        let origin = Origin::Model(model.to_owned(), number);
        let ended = State::Ended(Err(error.clone()));
        let id = self.operation_in(ended, Goal::Compute, origin);
        self.end(at, id, Err(error));
        if let Some(entry) = self.models.get_mut(model) {
            entry.lane.admit_ended(number, digest, id);
            self.watch_gap(at, model);
            self.advance(model);
        }
        self.promise(id)
    }

    fn operation_in(&mut self, state: State, goal: Goal, origin: Origin) -> OperationId {
        let id = OperationId(self.ids.next_operation());
        let operation = Operation {
            goal,
            origin,
            state,
            waiters: Vec::new(),
            abandoned: false,
            cancelled: None,
            until: None,
            polled: None,
        };
        self.operations.insert(id, operation);
        id
    }

    /// The answer that says under which id the result will be found.
    pub(super) fn promise(&self, id: OperationId) -> Answer {
        let promise = self.plain_promise(id);
        let operation = self.operations.get(&id);
        let model = promise.model_id.as_ref().and_then(|id| self.models.get(id));
        let of = match (operation.map(|operation| &operation.goal), model) {
            (Some(Goal::CreateModel), Some(model)) => {
                Promised::Model(&model.base.name, &model.lora)
            }
            (Some(Goal::Unload), _) => Promised::Unload,
            _ => Promised::Other,
        };
        self.config.dialect.promise(promise, of)
    }

    pub(super) fn plain_promise(&self, id: OperationId) -> Promise {
        let model = self
            .operations
            .get(&id)
            .and_then(|operation| match &operation.origin {
                Origin::Model(model, _) => Some(model.clone()),
                _ => None,
            });
        Promise {
            request_id: self.ids.request_id(id),
            model_id: model,
            sample_sequence_ids: None,
        }
    }

    /// `POST /retrieve_future`. `None` when the poll is held.
    pub(super) fn retrieve(
        &mut self,
        at: Stamp,
        exchange: ExchangeId,
        body: &RetrieveFuture,
        form: Form,
    ) -> Result<Option<Answer>, Refusal> {
        let name = &body.request_id;
        let dialect = &self.config.dialect;
        let id = self.ids.parse_request_id(name);
        let id = id.ok_or_else(|| dialect.no_future(name))?;
        let Some(operation) = self.operations.get_mut(&id) else {
            return Err(dialect.expired(name));
        };
        if let State::Ended(_) = operation.state {
            return Ok(Some(self.deliver(at, id, form, body.allow_metadata_only)));
        }
        if self.draining {
            return Ok(Some(self.try_again(id)));
        }
        operation.waiters.push(exchange);
        operation.polled = Some(at.now);
        let until = at.now.after(
            self.pause
                .hold(dialect.long_poll.unwrap_or(self.config.long_poll)),
        );
        self.agenda.add(until, Alarm::Poll(exchange));
        let poll = Poll {
            operation: id,
            form,
            metadata_only: body.allow_metadata_only,
            until,
        };
        self.polls.insert(exchange, poll);
        Ok(None)
    }

    /// The answer to a poll whose operation has ended.
    fn deliver(&mut self, at: Stamp, id: OperationId, form: Form, metadata_only: bool) -> Answer {
        let Some(operation) = self.operations.get_mut(&id) else {
            let name = self.ids.request_id(id);
            return self.config.dialect.expired(&name).into_answer();
        };
        let State::Ended(result) = &operation.state else {
            return self.try_again(id);
        };
        let mut fetched = true;
        let answer = match result {
            Err(error) => self.config.dialect.failed(error),
            Ok(payload) => {
                let form = payload.form(form);
                let announcement = metadata_only.then(|| Announcement {
                    request_id: self.ids.request_id(id),
                    above: self.config.large_result,
                });
                match (announcement, payload.known_size(form)) {
                    (Some(announcement), Some(size)) if size > announcement.above => {
                        return Answer::ok(&announcement.body(size));
                    }
                    // Its JSON is made without the lock, and its size is known only then. What may turn out to be
                    // announced does not count as fetched.
                    (Some(announcement), None) => {
                        fetched = payload.kept_bytes() < announcement.above / JSON_GROWTH;
                        Answer::result(Arc::clone(payload), form, Some(announcement))
                    }
                    _ => Answer::result(Arc::clone(payload), form, None),
                }
            }
        };
        if !fetched {
            return answer;
        }
        self.kept.fetched(id);
        self.announcements.remove(id);
        if self.config.dialect.expiry == Expiry::OnceFetched {
            self.forget(id);
            return answer;
        }
        let until = at.now.after(self.config.keep_fetched);
        if operation.until.is_none_or(|planned| planned > until) {
            operation.until = Some(until);
            self.agenda.add(until, Alarm::Result(id));
        }
        answer
    }

    /// The answer to a poll that was held long enough.
    fn try_again(&self, id: OperationId) -> Answer {
        if self.config.dialect.poll_end == PollEnd::Timeout {
            return Dialect::timed_out();
        }
        let (queue, paused) = self.pause.queue();
        let reason = paused.map(str::to_owned).or_else(|| self.reason(id));
        let body = PollAnswer::try_again_body(&self.ids.request_id(id), &queue, reason.as_deref());
        Answer::json(StatusCode::OK, &body)
    }

    /// Why an operation has not ended.
    fn reason(&self, id: OperationId) -> Option<String> {
        let Origin::Model(model, _) = &self.operations.get(&id)?.origin else {
            return None;
        };
        match self.models.get(model)?.lane.place(id) {
            Place::Running | Place::Behind(0) => None,
            Place::Behind(1) => Some("queued behind one request of the same model".to_owned()),
            Place::Behind(n) => Some(format!("queued behind {n} requests of the same model")),
            Place::Missing(number) => Some(format!(
                "waiting for seq_id {number} of {model}, which has not come; without it this request fails {:?} after the wait began",
                self.config.gap_timeout
            )),
        }
    }

    /// The engine has ended an operation. What it says of one that was cancelled gives way to why it was.
    pub(super) fn operation_ended(
        &mut self,
        id: OperationId,
        result: Result<Product, EngineError>,
    ) -> (Option<Origin>, Result<Product, EngineError>) {
        let Some(operation) = self.operations.get_mut(&id) else {
            return (None, result);
        };
        let result = match operation.cancelled.take() {
            Some(reason) => result.map_err(|_| EngineError::user(reason)),
            None => result,
        };
        (Some(operation.origin.clone()), result)
    }

    /// The operation has ended: its polls are answered and its time begins to run.
    pub(super) fn end(&mut self, at: Stamp, id: OperationId, result: Result<Payload, EngineError>) {
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        let bytes = match &result {
            Ok(payload) => payload.kept_bytes(),
            Err(error) => error.message.len(),
        };
        operation.state = State::Ended(result.map(Arc::new));
        self.kept.add(id, bytes);
        self.sampling.ended(at.now, id);
        let keep = match self.config.dialect.expiry {
            Expiry::After(length) => length.min(self.config.keep_results),
            Expiry::AsConfigured | Expiry::OnceFetched => self.config.keep_results,
        };
        let until = at.now.after(keep);
        operation.until = Some(until);
        let waiters = std::mem::take(&mut operation.waiters);
        self.agenda.add(until, Alarm::Result(id));
        for exchange in waiters {
            let Some(poll) = self.polls.remove(&exchange) else {
                continue;
            };
            self.agenda.remove(poll.until, Alarm::Poll(exchange));
            let answer = self.deliver(at, id, poll.form, poll.metadata_only);
            self.respond(exchange, answer);
        }
        self.announce(id);
        while let Some(id) = self.kept.excess(self.config.max_result_bytes) {
            self.forget(id);
        }
    }

    /// A poll was held long enough.
    pub(super) fn poll_is_due(&mut self, exchange: ExchangeId) {
        if let Some(poll) = self.forget_poll(exchange) {
            let answer = self.try_again(poll.operation);
            self.respond(exchange, answer);
        }
        self.answer_held(exchange);
    }

    /// Takes a held poll out.
    pub(super) fn forget_poll(&mut self, exchange: ExchangeId) -> Option<Poll> {
        let poll = self.polls.remove(&exchange)?;
        self.agenda.remove(poll.until, Alarm::Poll(exchange));
        if let Some(operation) = self.operations.get_mut(&poll.operation) {
            operation.waiters.retain(|waiter| *waiter != exchange);
        }
        Some(poll)
    }

    /// A result may have been kept long enough.
    pub(super) fn result_is_due(&mut self, at: Stamp, id: OperationId) {
        let Some(operation) = self.operations.get(&id) else {
            return;
        };
        if operation.until.is_none_or(|until| until > at.now) {
            return;
        }
        self.announcements.remove(id);
        self.forget(id);
    }

    /// The result is no longer kept, and its number no longer stands for it.
    pub(super) fn forget(&mut self, id: OperationId) {
        self.kept.remove(id);
        let Some(operation) = self.operations.remove(&id) else {
            return;
        };
        match operation.origin {
            Origin::Model(model, number) => {
                if let Some(model) = self.models.get_mut(&model) {
                    model.lane.forget(number);
                }
            }
            Origin::Sampler(sampler, Some(number)) => {
                if let Some(sampler) = self.samplers.get_mut(&sampler) {
                    sampler.seen.remove(&number);
                }
            }
            Origin::Sampler(_, None) | Origin::Free => {}
        }
    }
}
