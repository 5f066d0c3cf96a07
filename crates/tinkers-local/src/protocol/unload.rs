//! The end of models: unloaded by a client, unloaded with their session, or never created.

use tinkers_wire::ModelRef;

use super::ids::OperationId;
use super::payload::Product;
use super::state::operations::{Goal, Origin};
use super::{Protocol, Stamp};
use crate::engine::{EngineError, Work};
use crate::http::LazyResponse;
use crate::read::{Digest, Refusal};

impl Protocol {
    /// Handles `POST /unload_model`. Queued requests of the model run before the unload, but requests that wait for a missing
    /// sequence number fail. A repeated unload request gets the request id of the first one.
    pub(super) fn unload_model(
        &mut self,
        at: Stamp,
        body: &ModelRef,
    ) -> Result<LazyResponse, Refusal> {
        let id = &body.model_id;
        if let Some(before) = self.models.get(id).and_then(|model| model.unloading()) {
            if self.operations.get(before).is_some() {
                return Ok(self.accepted(before));
            }
            // The model was unloaded before, and the result of that operation has expired.
            let again = self.add_unload(id);
            self.conclude(at, again, Ok(Product::Nothing));
            return Ok(self.accepted(again));
        }
        self.models.usable(id)?;
        let operation = self.add_unload(id);
        let reason = format!("model {id} was unloaded");
        let not_run = self.models.begin_unload(id, operation, &reason);
        self.fail_all(at, not_run, &retired(&reason));
        self.enqueue(id, 0, Digest::of("unload_model", b""), operation);
        Ok(self.accepted(operation))
    }

    fn add_unload(&mut self, id: &str) -> OperationId {
        let origin = Origin::Model(id.to_owned(), 0);
        self.operations.add(Goal::Unload, origin, unload(id))
    }

    /// Ends the samplers that use copies of the weights of a model in memory, after the engine has unloaded the model.
    pub(super) fn end_snapshots(&mut self, id: &str) {
        for sampler in self.models.take_snapshots(id) {
            let reason = format!("model {id} was unloaded, and its unnamed weights with it");
            self.end_sampler(&sampler, &reason);
        }
    }

    /// Makes a model refuse requests because its creation has failed. Its queued operations fail too.
    pub(super) fn creation_failed(&mut self, at: Stamp, id: &str, error: &EngineError) {
        let reason = format!("model {id} could not be created: {}", error.message);
        let not_run = self.models.fail_creation(id, &reason);
        self.fail_all(at, not_run, &retired(&reason));
    }

    /// Ends a model at once, for example because its session has ended: cancels its running operation, fails its queued operations
    /// and unloads the model.
    pub(super) fn retire_model(&mut self, at: Stamp, id: &str, reason: &str) {
        let Some(left) = self.models.retire(id, reason) else {
            return;
        };
        match left.running {
            Some(operation) => self.cancel(operation, reason),
            None => self.clean_up(unload(id)),
        }
        self.fail_all(at, left.not_run, &retired(reason));
    }
}

fn unload(id: &str) -> Work {
    Work::UnloadModel {
        model: id.to_owned(),
    }
}

/// Returns the error of an operation that was not run because its model was unloaded or could not be created.
fn retired(reason: &str) -> EngineError {
    EngineError::user(format!("{reason}; the request was not run"))
}
