//! The end of models: unloaded when asked, retired with their session, or never made.

use tinkers_wire::ModelRef;

use super::model::unknown;
use super::operation::{Operation, Origin, State};
use super::payload::Product;
use super::{Effect, EngineError, Goal, OperationId, Protocol, Stamp};
use crate::engine::Work;
use crate::http::Answer;
use crate::read::{Digest, Refusal};

impl Protocol {
    /// `POST /unload_model`: after what has been accepted; what waits for a missing number is given up. Asked for again,
    /// it is the same unloading.
    pub(super) fn unload_model(&mut self, at: Stamp, body: &ModelRef) -> Result<Answer, Refusal> {
        let id = &body.model_id;
        if let Some(before) = self.models.get(id).and_then(|model| model.unloading) {
            if self.operations.contains_key(&before) {
                return Ok(self.promise(before));
            }
            // Done long ago, and its result has gone.
            let again = self.unloading(id);
            self.conclude(at, again, Ok(Product::Nothing));
            return Ok(self.promise(again));
        }
        self.usable(id)?;
        let operation = self.unloading(id);
        let Some(model) = self.models.get_mut(id) else {
            return Err(unknown(id));
        };
        let reason = format!("model {id} was unloaded");
        model.retired = Some(reason.clone());
        model.unloading = Some(operation);
        let given_up = model.lane.clear_early();
        self.give_up(at, given_up, &retired(&reason));
        self.enter(id, 0, Digest::of("unload_model", b""), operation);
        Ok(self.promise(operation))
    }

    fn unloading(&mut self, id: &str) -> OperationId {
        let work = Work::UnloadModel {
            model: id.to_owned(),
        };
        self.operation(Goal::Unload, Origin::Model(id.to_owned(), 0), work)
    }

    /// The engine has forgotten a model: nobody samples from its weights in memory any more.
    pub(super) fn unloaded(&mut self, id: &str) {
        let Some(model) = self.models.get_mut(id) else {
            return;
        };
        for sampler in std::mem::take(&mut model.snapshots) {
            let reason = format!("model {id} was unloaded, and its unnamed weights with it");
            self.end_sampler(&sampler, &reason);
        }
    }

    /// The running operation of a model has ended.
    pub(super) fn lane_ended(&mut self, id: &str) {
        let Some(model) = self.models.get_mut(id) else {
            return;
        };
        model.lane.ended();
        if std::mem::take(&mut model.unload) {
            self.housekeeping(Work::UnloadModel {
                model: id.to_owned(),
            });
            return;
        }
        self.advance(id);
    }

    /// A model could not be made: nothing of it will run.
    pub(super) fn creation_failed(&mut self, at: Stamp, id: &str, error: &EngineError) {
        let Some(model) = self.models.get_mut(id) else {
            return;
        };
        let reason = format!("model {id} could not be created: {}", error.message);
        model.retired = Some(reason.clone());
        let given_up = model.lane.clear();
        self.give_up(at, given_up, &retired(&reason));
    }

    /// Takes a model out of service: what runs is cancelled, what waits fails, the engine forgets it.
    pub(super) fn retire_model(&mut self, at: Stamp, id: &str, reason: &str) {
        let Some(model) = self.models.get_mut(id) else {
            return;
        };
        if model.retired.replace(reason.to_owned()).is_some() {
            return;
        }
        let given_up = model.lane.clear();
        let running = model.lane.running();
        model.unload = running.is_some();
        match running {
            Some(operation) => self.cancel(operation, reason),
            None => self.housekeeping(Work::UnloadModel {
                model: id.to_owned(),
            }),
        }
        self.give_up(at, given_up, &retired(reason));
    }

    /// Tells the engine that nobody waits for an operation that runs, and remembers why.
    pub(super) fn cancel(&mut self, id: OperationId, reason: &str) {
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        match operation {
            // Its client asked for it and may have left because it did: what is being written is written to its end.
            Operation {
                goal: Goal::Save(_),
                ..
            } => {}
            Operation {
                state: State::Running(job),
                cancelled,
                ..
            } => {
                *cancelled = Some(format!("{reason}; the request was cancelled"));
                let job = *job;
                self.start_for_cancel(job);
                self.out.push(Effect::Cancel(job));
            }
            _ => {}
        }
    }

    fn give_up(&mut self, at: Stamp, operations: Vec<OperationId>, error: &EngineError) {
        for operation in operations {
            self.conclude(at, operation, Err(error.clone()));
        }
    }
}

/// The error of an operation that a retired model will not run.
fn retired(reason: &str) -> EngineError {
    EngineError::user(format!("{reason}; the request was not run"))
}
