//! The models, with their queues and their samplers of weights in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tinkers_wire::LoraConfig;

use super::model_queue::ModelQueue;
use crate::dialect::Order;
use crate::engine::BaseModel;
use crate::protocol::ids::OperationId;
use crate::read::{Digest, Refusal};

/// A model. Unloaded models are not deleted, so that later requests to them can be refused with a reason.
#[derive(Debug)]
pub(crate) struct Model {
    session: String,
    base: Arc<BaseModel>,
    lora: LoraConfig,
    queue: ModelQueue,
    /// The reason why the model accepts no more requests; `None` if it accepts requests.
    retired: Option<String>,
    /// Whether the engine has to unload the model when the running operation of the model has ended.
    unloads: bool,
    /// The operation that unloads the model for a client. `None` if no client has asked for the unload.
    unloading: Option<OperationId>,
    /// The ids of the samplers that use copies of the weights of this model in memory, the least recently used sampler first.
    snapshots: Vec<String>,
}

impl Model {
    pub(crate) fn new(
        session: String,
        base: Arc<BaseModel>,
        lora: LoraConfig,
        order: Order,
    ) -> Self {
        Self {
            session,
            base,
            lora,
            queue: ModelQueue::new(order),
            retired: None,
            unloads: false,
            unloading: None,
            snapshots: Vec::new(),
        }
    }

    pub(crate) fn session(&self) -> &str {
        &self.session
    }

    pub(crate) fn base(&self) -> &Arc<BaseModel> {
        &self.base
    }

    pub(crate) fn lora(&self) -> &LoraConfig {
        &self.lora
    }

    pub(crate) fn queue(&self) -> &ModelQueue {
        &self.queue
    }

    /// Returns the operation that unloads the model for a client. Returns `None` if no client has asked for the unload.
    pub(crate) fn unloading(&self) -> Option<OperationId> {
        self.unloading
    }
}

/// The operations of a model that has been ended and accepts no more requests.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Retired {
    /// The operations that have not started and will never run.
    pub(crate) not_run: Vec<OperationId>,
    /// The operation that is still running. The engine can unload the model only after it. `None` if the engine can unload the
    /// model now.
    pub(crate) running: Option<OperationId>,
}

/// The models by their ids.
#[derive(Debug, Default)]
pub(crate) struct Models {
    all: BTreeMap<String, Model>,
    /// The ids of models that a simulated restart deleted while one of their operations was running. The engine has to unload them
    /// after this operation.
    orphans: BTreeSet<String>,
}

impl Models {
    /// Adds a model, which the first operation in its queue will create on the engine.
    pub(crate) fn insert(
        &mut self,
        id: String,
        mut model: Model,
        digest: Digest,
        creation: OperationId,
    ) {
        model.queue.admit(0, digest, creation);
        self.all.insert(id, model);
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Model> {
        self.all.get(id)
    }

    /// Returns the queue of a model, or `None` if the model is unknown.
    pub(crate) fn queue_mut(&mut self, id: &str) -> Option<&mut ModelQueue> {
        self.all.get_mut(id).map(|model| &mut model.queue)
    }

    /// Returns the model with this id, if it accepts requests.
    ///
    /// # Errors
    ///
    /// If the model is unknown or accepts no more requests.
    pub(crate) fn usable(&self, id: &str) -> Result<&Model, Refusal> {
        let model = self.all.get(id).ok_or_else(|| unknown(id))?;
        match &model.retired {
            None => Ok(model),
            Some(reason) => Err(Refusal::gone(reason.clone())),
        }
    }

    /// Makes a model refuse new requests because a client unloads it. Queued operations still run before the unload, except those
    /// that wait for a missing `seq_id`. These are removed and returned.
    pub(crate) fn begin_unload(
        &mut self,
        id: &str,
        operation: OperationId,
        reason: &str,
    ) -> Vec<OperationId> {
        let Some(model) = self.all.get_mut(id) else {
            return Vec::new();
        };
        model.retired = Some(reason.to_owned());
        model.unloading = Some(operation);
        model.queue.clear_early()
    }

    /// Makes a model refuse requests because its creation has failed. Removes and returns the queued operations, which will not
    /// run.
    pub(crate) fn fail_creation(&mut self, id: &str, reason: &str) -> Vec<OperationId> {
        let Some(model) = self.all.get_mut(id) else {
            return Vec::new();
        };
        model.retired = Some(reason.to_owned());
        model.queue.clear()
    }

    /// Makes a model refuse requests and empties its queue. The engine has to unload it after its running operation. Returns the
    /// operations of the model, or `None` if the model is unknown or already refused requests.
    pub(crate) fn retire(&mut self, id: &str, reason: &str) -> Option<Retired> {
        let model = self.all.get_mut(id)?;
        if model.retired.replace(reason.to_owned()).is_some() {
            return None;
        }
        let not_run = model.queue.clear();
        let running = model.queue.running();
        model.unloads = running.is_some();
        Some(Retired { not_run, running })
    }

    /// Records that the running operation of a model has ended. Returns whether the engine has to unload the model now.
    pub(crate) fn operation_ended(&mut self, id: &str) -> bool {
        let Some(model) = self.all.get_mut(id) else {
            return false;
        };
        model.queue.ended();
        std::mem::take(&mut model.unloads)
    }

    /// Adds a sampler that uses a copy of the weights of a model in memory. If the model then has more than `most` such samplers,
    /// removes and returns the least recently used ones.
    pub(crate) fn add_snapshot(&mut self, id: &str, sampler: String, most: usize) -> Vec<String> {
        let Some(model) = self.all.get_mut(id) else {
            return Vec::new();
        };
        model.snapshots.push(sampler);
        let excess = model.snapshots.len().saturating_sub(most);
        model.snapshots.drain(..excess).collect()
    }

    /// Makes a sampler the most recently used of the samplers that use copies of the weights of a model.
    pub(crate) fn touch_snapshot(&mut self, id: &str, sampler: &str) {
        let Some(model) = self.all.get_mut(id) else {
            return;
        };
        if let Some(at) = model.snapshots.iter().position(|other| other == sampler) {
            let sampler = model.snapshots.remove(at);
            model.snapshots.push(sampler);
        }
    }

    /// Removes and returns all samplers that use copies of the weights of a model in memory.
    pub(crate) fn take_snapshots(&mut self, id: &str) -> Vec<String> {
        let model = self.all.get_mut(id);
        model.map_or_else(Vec::new, |model| std::mem::take(&mut model.snapshots))
    }

    /// Deletes all models for a simulated restart. If an operation of a model is running, the id of the model is stored in
    /// `orphans`, so that the engine can unload the model later. It is not stored if `unloads` returns `true` for the operation,
    /// because then the operation itself unloads the model.
    pub(crate) fn restart(&mut self, unloads: impl Fn(OperationId) -> bool) {
        for (id, model) in std::mem::take(&mut self.all) {
            if model
                .queue
                .running()
                .is_some_and(|running| !unloads(running))
            {
                self.orphans.insert(id);
            }
        }
    }

    /// Removes a model from those that a simulated restart deleted while an operation was running. Returns whether it was one of
    /// them, so that the engine has to unload it now.
    pub(crate) fn take_orphan(&mut self, id: &str) -> bool {
        self.orphans.remove(id)
    }
}

pub(crate) fn unknown(id: &str) -> Refusal {
    Refusal::not_found(format!("no model {id:?} on this server"))
}

#[cfg(test)]
mod tests {
    use super::super::samplers::tests::base;
    use super::*;

    fn digest() -> Digest {
        Digest::of("test", b"x")
    }

    /// Returns a collection with the model "m", whose queue contains `operations` operations, numbered from 1. The first one
    /// creates the model.
    fn models(operations: u64) -> Models {
        let base = Arc::new(base("base", None));
        let lora = LoraConfig::rank(4);
        let order = Order::BySeqId;
        let model = Model::new("session".to_owned(), base, lora, order);
        let mut models = Models::default();
        models.insert("m".to_owned(), model, digest(), OperationId(1));
        let queue = models.queue_mut("m").unwrap();
        for number in 1..operations {
            queue.admit(number, digest(), OperationId(number + 1));
        }
        models
    }

    #[test]
    fn ended_model_is_unloaded_after_its_running_operation() {
        let mut models = models(3);
        let queue = models.queue_mut("m").unwrap();
        assert_eq!(queue.start(), Some(OperationId(1)));
        let retired = models.retire("m", "first").unwrap();
        assert_eq!(retired.running, Some(OperationId(1)));
        assert_eq!(retired.not_run, [OperationId(2), OperationId(3)]);
        assert!(models.retire("m", "second").is_none());
        assert_eq!(models.usable("m").unwrap_err().status(), 410);
        assert!(models.operation_ended("m"));
        assert!(!models.operation_ended("m"));
        assert!(!models.operation_ended("other"));
    }

    #[test]
    fn ended_model_is_unloaded_at_once_if_no_operation_is_running() {
        let mut models = models(1);
        assert_eq!(models.retire("m", "reason").unwrap().running, None);
        assert!(!models.operation_ended("m"));
    }

    #[test]
    fn model_unload_runs_ready_operations_and_removes_waiting_ones() {
        let mut models = models(2);
        let queue = models.queue_mut("m").unwrap();
        queue.admit(9, digest(), OperationId(9));
        let not_run = models.begin_unload("m", OperationId(10), "reason");
        assert_eq!(not_run, [OperationId(9)]);
        assert_eq!(models.get("m").unwrap().unloading(), Some(OperationId(10)));
        let queue = models.queue_mut("m").unwrap();
        assert_eq!(queue.start(), Some(OperationId(1)));
        assert!(models.usable("m").is_err());
    }

    #[test]
    fn failed_model_creation_empties_the_queue_of_the_model() {
        let mut models = models(3);
        models.queue_mut("m").unwrap().start();
        models.operation_ended("m");
        let not_run = models.fail_creation("m", "reason");
        assert_eq!(not_run, [OperationId(2), OperationId(3)]);
        assert_eq!(models.queue_mut("m").unwrap().start(), None);
    }

    #[test]
    fn least_recently_used_weights_in_memory_are_dropped_first() {
        let mut models = models(1);
        for sampler in ["a", "b"] {
            let excess = models.add_snapshot("m", sampler.to_owned(), 2);
            assert_eq!(excess, [""; 0]);
        }
        models.touch_snapshot("m", "a");
        models.touch_snapshot("m", "other");
        assert_eq!(models.add_snapshot("m", "c".to_owned(), 2), ["b"]);
        assert_eq!(models.take_snapshots("m"), ["a", "c"]);
        assert_eq!(models.take_snapshots("m"), [""; 0]);
    }

    #[test]
    fn models_deleted_by_a_restart_are_unloaded_after_their_operation() {
        for unloads in [false, true] {
            let mut models = models(1);
            models.queue_mut("m").unwrap().start();
            models.restart(|_| unloads);
            assert!(models.get("m").is_none());
            assert_eq!(models.take_orphan("m"), !unloads);
            assert!(!models.take_orphan("m"));
        }
        let mut idle = models(1);
        idle.restart(|_| false);
        assert!(!idle.take_orphan("m"));
    }
}
