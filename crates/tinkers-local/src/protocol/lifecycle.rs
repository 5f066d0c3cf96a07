//! The life cycle of an operation: queued, started, cancelled, ended, deleted.

use super::ids::OperationId;
use super::payload::Product;
use super::state::operations::{Goal, Origin};
use super::{Protocol, Stamp};
use crate::dialect::AcceptedKind;
use crate::engine::{CheckpointRecord, EngineError, Work};
use crate::http::LazyResponse;
use crate::read::{Digest, Refusal};

impl Protocol {
    /// Returns the response to a request of a model that repeats an accepted request, with the same sequence number and content.
    /// Returns `None` for a new request, after a check that the queue of the model has room for it.
    pub(super) fn repeated(
        &mut self,
        at: Stamp,
        id: &str,
        number: u64,
        digest: Digest,
    ) -> Result<Option<LazyResponse>, Refusal> {
        let seconds = CheckpointRecord::seconds(at.wall);
        let queue = self.models.usable(id)?.queue();
        if let Some(run) = self.records.runs.change_later(id) {
            run.last_request = seconds;
        }
        let repeated = queue.repeated(number, digest);
        if let Some(operation) =
            repeated.map_err(|refusal| self.config.dialect.number_reused(refusal))?
        {
            return Ok(Some(self.accepted(operation)));
        }
        if !queue.has_room(number, digest.bytes(), self.config.queue_limit()) {
            return Err(Refusal::busy(format!(
                "too many requests of {id} are waiting already; come back later"
            )));
        }
        Ok(None)
    }

    /// Accepts a request, puts its operation into the queue of its model, and returns the response.
    pub(super) fn accept(
        &mut self,
        at: Stamp,
        model: &str,
        number: u64,
        digest: Digest,
        goal: Goal,
        work: Work,
    ) -> LazyResponse {
        let origin = Origin::Model(model.to_owned(), number);
        let operation = self.operations.add(goal, origin, work);
        self.enqueue(model, number, digest, operation);
        self.update_gap(at, model);
        self.accepted(operation)
    }

    /// Accepts a request whose operation has failed before it could be queued, and returns the response. The sequence number of the
    /// request counts as used.
    pub(super) fn accept_failed(
        &mut self,
        at: Stamp,
        (model, number): (&str, u64),
        digest: Digest,
        error: EngineError,
    ) -> LazyResponse {
        let origin = Origin::Model(model.to_owned(), number);
        let id = self.operations.add_failed(origin, error.clone());
        self.end(at, id, Err(error));
        if let Some(queue) = self.models.queue_mut(model) {
            queue.admit_ended(number, digest, id);
            self.update_gap(at, model);
            self.advance(model);
        }
        self.accepted(id)
    }

    /// Puts an operation into the queue of its model, and starts it if it is the next and no other operation of the model runs.
    pub(super) fn enqueue(
        &mut self,
        model: &str,
        number: u64,
        digest: Digest,
        operation: OperationId,
    ) {
        if let Some(queue) = self.models.queue_mut(model) {
            queue.admit(number, digest, operation);
        }
        self.advance(model);
    }

    /// Starts the next operation in the queue of a model, unless an operation of this model is running.
    pub(super) fn advance(&mut self, model: &str) {
        let queue = self.models.queue_mut(model);
        if let Some(operation) = queue.and_then(|queue| queue.start()) {
            self.start(operation);
        }
    }

    /// Starts an engine job for the work of an operation.
    pub(super) fn start(&mut self, id: OperationId) {
        let job = self.jobs.next_id();
        if let Some(work) = self.operations.start(id, job) {
            self.effects
                .extend(self.jobs.start_operation(job, id, work));
        }
    }

    /// Starts an engine job that frees resources, such as unloading a model. No client waits for its outcome.
    pub(super) fn clean_up(&mut self, work: Work) {
        self.effects
            .push(self.jobs.start(super::Role::Cleanup, work));
    }

    /// Cancels a running operation. Polls for its result then get the error `reason`.
    pub(super) fn cancel(&mut self, id: OperationId, reason: &str) {
        if let Some(job) = self.operations.cancel(id, reason) {
            self.effects.extend(self.jobs.cancel(job));
        }
    }

    /// Applies the outcome of an engine job to the operation for which the job ran.
    pub(super) fn operation_ended(
        &mut self,
        at: Stamp,
        id: OperationId,
        result: Result<Product, EngineError>,
    ) {
        let (origin, result) = self.operations.job_ended(id, result);
        self.conclude(at, id, result);
        if let Some(Origin::Model(model, _)) = &origin {
            match self.models.operation_ended(model) {
                true => self.clean_up(Work::UnloadModel {
                    model: model.clone(),
                }),
                false => self.advance(model),
            }
        }
        self.leftover_ended(id, origin.as_ref());
    }

    /// Fails operations that will not run, all with the same error.
    pub(super) fn fail_all(
        &mut self,
        at: Stamp,
        operations: Vec<OperationId>,
        error: &EngineError,
    ) {
        for operation in operations {
            self.conclude(at, operation, Err(error.clone()));
        }
    }

    /// Deletes an operation, its result, and the record that its sequence number was used.
    pub(super) fn forget(&mut self, id: OperationId) {
        match self.operations.remove(id) {
            Some(Origin::Model(model, number)) => {
                if let Some(queue) = self.models.queue_mut(&model) {
                    queue.forget(number);
                }
            }
            Some(Origin::Sampler(sampler, Some(number))) => {
                self.samplers.forget_sample(&sampler, number);
            }
            Some(Origin::Sampler(_, None) | Origin::Free(_)) | None => {}
        }
    }

    /// Returns the response to an accepted request. It contains the request id, with which the client polls for the result.
    pub(super) fn accepted(&self, id: OperationId) -> LazyResponse {
        let submission = self.submission(id);
        let goal = self.operations.get(id).map(|operation| operation.goal());
        let model = submission
            .model_id
            .as_ref()
            .and_then(|id| self.models.get(id));
        let of = match (goal, model) {
            (Some(Goal::CreateModel), Some(model)) => {
                AcceptedKind::Model(&model.base().name, model.lora())
            }
            (Some(Goal::Unload), _) => AcceptedKind::Unload,
            _ => AcceptedKind::Other,
        };
        self.config.dialect.accepted(submission, of)
    }

    /// Returns the body of the response to an accepted request, in the format of the official service.
    pub(super) fn submission(&self, id: OperationId) -> tinkers_wire::SubmissionResponse {
        let operation = self.operations.get(id);
        let model = operation.and_then(|operation| operation.model());
        tinkers_wire::SubmissionResponse {
            request_id: self.operations.request_id(id),
            model_id: model.map(str::to_owned),
            sample_sequence_ids: None,
        }
    }
}
