//! The operations: accepted requests, for whose results clients can poll.

use std::collections::BTreeMap;
use std::sync::Arc;

use tinkers_core::{Jitter, Timestamp};
use tinkers_wire::{PassMode, TinkerPath};

use super::retained::RetainedResults;
use super::samplers::Sampler;
use crate::access::Owner;
use crate::engine::{BaseModel, CheckpointRecord, EngineError, JobId, Work};
use crate::protocol::ids::{OperationId, RequestIds};
use crate::protocol::payload::{Payload, Product};

/// The purpose of an operation. It determines what changes when the operation has ended.
#[derive(Debug, Clone)]
pub(crate) enum Goal {
    CreateModel,
    /// Creates a model from a checkpoint.
    CreateFrom(TinkerPath),
    /// Loads a checkpoint into an existing model.
    LoadInto(TinkerPath),
    Unload,
    /// Runs a forward pass, or a forward and a backward pass, on data with this number of tokens.
    Pass(PassMode, u64),
    Step,
    /// Samples from weights of this base model, with a prompt of this number of tokens.
    Sample(Arc<BaseModel>, u64),
    /// Does nothing: the request failed before its operation could be queued.
    Refused,
    Save(Box<CheckpointRecord>),
    /// Copies the weights of a model into memory for this new sampler, which gets this id.
    Snapshot(Box<Sampler>, String),
}

/// The model or sampler that an operation belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The operation belongs to this model and has this `seq_id`. A `seq_id` of 0 stands for none.
    Model(String, u64),
    /// The operation belongs to this sampler and has this `seq_id`. `None` for an operation without a `seq_id`.
    Sampler(String, Option<u64>),
    /// The operation belongs neither to a model nor to a sampler, but only to this owner. It is a sample directly from a base model or a
    /// checkpoint.
    Free(Owner),
}

/// An operation: the work of an accepted request, from its queue to its result.
#[derive(Debug)]
pub(crate) struct Operation {
    goal: Goal,
    origin: Origin,
    state: State,
    accepted: Timestamp,
    started: Option<Timestamp>,
    /// Whether no client needs the result any more. The operation is then deleted when it ends.
    is_abandoned: bool,
    /// The reason for the cancellation, if the operation was cancelled.
    cancelled: Option<String>,
    /// The time at which the result expires. `None` until the operation has ended.
    expires: Option<Timestamp>,
    /// The time of the last poll for the result of this operation alone. `None` if there was none.
    polled: Option<Timestamp>,
}

#[derive(Debug)]
enum State {
    Queued(Box<Work>),
    Running(JobId),
    Ended(Result<Arc<Payload>, EngineError>),
}

impl Operation {
    pub(crate) fn goal(&self) -> &Goal {
        &self.goal
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Returns the model to which the operation belongs, or `None` for a sample.
    pub(crate) fn model(&self) -> Option<&str> {
        match &self.origin {
            Origin::Model(model, _) => Some(model),
            Origin::Sampler(..) | Origin::Free(_) => None,
        }
    }

    pub(crate) fn is_sample(&self) -> bool {
        self.model().is_none()
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state, State::Running(_))
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.is_some()
    }

    /// Returns whether no client needs the result any more. The operation is then deleted when it ends.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.is_abandoned
    }

    /// Returns the time of the last poll for the result of this operation alone, or `None` if there was none.
    pub(crate) fn polled(&self) -> Option<Timestamp> {
        self.polled
    }

    /// Returns the time at which the operation was accepted, and the time at which the engine started it, if it did.
    pub(crate) fn times(&self) -> (Timestamp, Option<Timestamp>) {
        (self.accepted, self.started)
    }

    /// Returns the result of the operation, or `None` until the operation has ended.
    pub(crate) fn result(&self) -> Option<&Result<Arc<Payload>, EngineError>> {
        match &self.state {
            State::Ended(result) => Some(result),
            State::Queued(_) | State::Running(_) => None,
        }
    }
}

/// All operations with their results, by operation number, and the request ids under which clients know them.
#[derive(Debug)]
pub(crate) struct Operations {
    ids: RequestIds,
    /// The time of the current transition.
    now: Timestamp,
    all: BTreeMap<OperationId, Operation>,
    retained: RetainedResults,
}

impl Operations {
    /// Creates an empty collection. Request ids are generated with `random`.
    pub(crate) fn new(random: Arc<dyn Jitter>) -> Self {
        Self {
            ids: RequestIds::new(random),
            now: Timestamp::ORIGIN,
            all: BTreeMap::new(),
            retained: RetainedResults::default(),
        }
    }

    /// Sets the time of the current transition.
    pub(crate) fn set_now(&mut self, now: Timestamp) {
        self.now = now;
    }

    /// Adds an operation that has not started, and returns its number.
    pub(crate) fn add(&mut self, goal: Goal, origin: Origin, work: Work) -> OperationId {
        self.add_in(State::Queued(Box::new(work)), goal, origin)
    }

    /// Adds an operation that has already failed, and returns its number.
    pub(crate) fn add_failed(&mut self, origin: Origin, error: EngineError) -> OperationId {
        self.add_in(State::Ended(Err(error)), Goal::Refused, origin)
    }

    fn add_in(&mut self, state: State, goal: Goal, origin: Origin) -> OperationId {
        let id = self.ids.next();
        let operation = Operation {
            goal,
            origin,
            state,
            accepted: self.now,
            started: None,
            is_abandoned: false,
            cancelled: None,
            expires: None,
            polled: None,
        };
        self.all.insert(id, operation);
        id
    }

    /// Returns the request id of an operation, with which clients poll for its result.
    pub(crate) fn request_id(&self, id: OperationId) -> String {
        self.ids.name(id)
    }

    /// Returns the operation with this request id, even if the operation was deleted. Returns `None` if the request id was never
    /// issued.
    pub(crate) fn parse_request_id(&self, name: &str) -> Option<OperationId> {
        self.ids.parse(name)
    }

    pub(crate) fn get(&self, id: OperationId) -> Option<&Operation> {
        self.all.get(&id)
    }

    /// Returns the numbers of the operations for which `wanted` returns `true`.
    pub(crate) fn ids_where(&self, wanted: impl Fn(&Operation) -> bool) -> Vec<OperationId> {
        let wanted = self.all.iter().filter(|(_, operation)| wanted(operation));
        wanted.map(|(id, _)| *id).collect()
    }

    /// Marks a queued operation as running in the engine job `job`, and returns its work. Returns `None` if it is not queued.
    pub(crate) fn start(&mut self, id: OperationId, job: JobId) -> Option<Work> {
        let operation = self.all.get_mut(&id)?;
        match std::mem::replace(&mut operation.state, State::Running(job)) {
            State::Queued(work) => {
                operation.started = Some(self.now);
                Some(*work)
            }
            other => {
                operation.state = other;
                None
            }
        }
    }

    /// Marks a running operation as cancelled and returns its engine job, which the caller has to cancel. Returns `None` for an
    /// operation that is not running, and for a save, since a client may rely on an accepted save after it has disconnected.
    pub(crate) fn cancel(&mut self, id: OperationId, reason: &str) -> Option<JobId> {
        let operation = self.all.get_mut(&id)?;
        let State::Running(job) = operation.state else {
            return None;
        };
        if matches!(operation.goal, Goal::Save(_)) {
            return None;
        }
        operation.cancelled = Some(format!("{reason}; the request was cancelled"));
        Some(job)
    }

    /// Returns the origin and the final outcome of an operation whose engine job has ended. If the operation was cancelled and
    /// failed, the error is replaced by the reason for the cancellation.
    pub(crate) fn job_ended(
        &mut self,
        id: OperationId,
        result: Result<Product, EngineError>,
    ) -> (Option<Origin>, Result<Product, EngineError>) {
        let Some(operation) = self.all.get_mut(&id) else {
            return (None, result);
        };
        let result = match operation.cancelled.take() {
            Some(reason) => result.map_err(|_| EngineError::user(reason)),
            None => result,
        };
        (Some(operation.origin.clone()), result)
    }

    /// Records that a client polled for the result of an operation at `now`.
    pub(crate) fn record_poll(&mut self, id: OperationId, now: Timestamp) {
        if let Some(operation) = self.all.get_mut(&id) {
            operation.polled = Some(now);
        }
    }

    /// Records that no client needs the result of an operation any more. The operation is then deleted when it ends.
    pub(crate) fn abandon(&mut self, id: OperationId) {
        if let Some(operation) = self.all.get_mut(&id) {
            operation.is_abandoned = true;
        }
    }

    /// Stores the result of an operation that has ended, until `expires`.
    pub(crate) fn end(
        &mut self,
        id: OperationId,
        result: Result<Payload, EngineError>,
        expires: Timestamp,
    ) {
        let Some(operation) = self.all.get_mut(&id) else {
            return;
        };
        let bytes = match &result {
            Ok(payload) => payload.kept_bytes(),
            Err(error) => error.message.len(),
        };
        operation.state = State::Ended(result.map(Arc::new));
        operation.expires = Some(expires);
        self.retained.add(id, bytes);
    }

    /// Records that a client fetched a result. If `expires` is earlier than the expiry of the result, moves the expiry to
    /// `expires`. Returns whether the expiry has changed.
    pub(crate) fn fetched(&mut self, id: OperationId, expires: Timestamp) -> bool {
        let Some(operation) = self.all.get_mut(&id) else {
            return false;
        };
        self.retained.fetched(id);
        let is_shorter = operation.expires.is_none_or(|planned| planned > expires);
        if is_shorter {
            operation.expires = Some(expires);
        }
        is_shorter
    }

    /// Returns whether the result of an operation has expired at `now`.
    pub(crate) fn is_expired(&self, id: OperationId, now: Timestamp) -> bool {
        let expires = self.all.get(&id).and_then(|operation| operation.expires);
        expires.is_some_and(|expires| expires <= now)
    }

    /// Returns the operation to delete next because the stored results exceed `budget` bytes. Returns `None` if they do not.
    pub(crate) fn excess(&self, budget: usize) -> Option<OperationId> {
        self.retained.excess(budget)
    }

    /// Deletes an operation with its result, and returns its origin.
    pub(crate) fn remove(&mut self, id: OperationId) -> Option<Origin> {
        self.retained.remove(id);
        Some(self.all.remove(&id)?.origin)
    }

    /// Deletes all operations that are not running, for a simulated restart. Makes all request ids unknown, and marks the running
    /// operations as needed by no client.
    pub(crate) fn restart(&mut self) {
        for id in self.ids_where(|operation| !operation.is_running()) {
            self.remove(id);
        }
        for operation in self.all.values_mut() {
            operation.is_abandoned = true;
        }
        self.ids.restart();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tinkers_core::FixedJitter;

    fn operations() -> Operations {
        Operations::new(Arc::new(FixedJitter(0.5)))
    }

    fn work() -> Work {
        Work::UnloadModel {
            model: "m".to_owned(),
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::ORIGIN.after(Duration::from_secs(seconds))
    }

    fn origin() -> Origin {
        Origin::Model("m".to_owned(), 1)
    }

    #[test]
    fn queued_operation_starts_only_once() {
        let mut operations = operations();
        let id = operations.add(Goal::Step, origin(), work());
        assert!(operations.start(id, JobId(1)).is_some());
        assert!(operations.start(id, JobId(2)).is_none());
        assert_eq!(operations.cancel(id, "reason"), Some(JobId(1)));
        let failed = operations.add_failed(origin(), EngineError::user("wrong"));
        assert!(operations.start(failed, JobId(3)).is_none());
        let result = operations.get(failed).unwrap().result();
        assert_eq!(result.unwrap().as_ref().unwrap_err().message, "wrong");
    }

    #[test]
    fn cancelled_operation_fails_with_the_reason_for_the_cancellation() {
        let mut operations = operations();
        let id = operations.add(Goal::Step, origin(), work());
        assert_eq!(operations.cancel(id, "too early"), None);
        operations.start(id, JobId(1));
        operations.cancel(id, "its client left");
        assert!(operations.get(id).unwrap().is_cancelled());
        let failure = Err(EngineError::server("stopped"));
        let (_, result) = operations.job_ended(id, failure);
        assert!(result.unwrap_err().message.starts_with("its client left; "));
        // An operation that succeeded in spite of its cancellation keeps its result.
        operations.cancel(id, "its client left");
        assert!(operations.job_ended(id, Ok(Product::Nothing)).1.is_ok());
    }

    #[test]
    fn running_save_is_not_cancelled() {
        let record = crate::protocol::state::checkpoints::tests::record("c", None);
        let mut operations = operations();
        let id = operations.add(Goal::Save(Box::new(record)), origin(), work());
        operations.start(id, JobId(1));
        assert_eq!(operations.cancel(id, "reason"), None);
        assert!(!operations.get(id).unwrap().is_cancelled());
    }

    #[test]
    fn fetching_a_result_never_postpones_its_expiry() {
        let mut operations = operations();
        let id = operations.add_failed(origin(), EngineError::user(""));
        operations.end(id, Err(EngineError::user("")), at(100));
        assert!(operations.fetched(id, at(10)));
        assert!(!operations.fetched(id, at(20)));
        assert!(!operations.is_expired(id, at(9)) && operations.is_expired(id, at(10)));
        assert_eq!(operations.remove(id), Some(origin()));
        assert!(!operations.is_expired(id, at(10)) && operations.remove(id).is_none());
    }

    #[test]
    fn server_restart_keeps_running_operations_but_not_request_ids() {
        let mut operations = Operations::new(Arc::new(tinkers_core::SplitMix::new(1)));
        let running = operations.add(Goal::Step, origin(), work());
        operations.start(running, JobId(1));
        let queued = operations.add(Goal::Step, origin(), work());
        let name = operations.request_id(running);
        operations.restart();
        assert!(operations.get(running).unwrap().is_abandoned());
        assert!(operations.get(queued).is_none());
        assert_eq!(operations.parse_request_id(&name), None);
    }
}
