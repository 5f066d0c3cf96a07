//! The end of operations: their results, and the resulting changes of the state.

use serde::Serialize;
use tinkers_wire::{
    CheckpointKind, LoadedWeights, ModelCreated, SavedSamplerWeights, SavedWeights, UnloadedModel,
};

use super::ids::OperationId;
use super::payload::{Payload, Product};
use super::state::agenda::Alarm;
use super::state::operations::Goal;
use super::{Protocol, Stamp};
use crate::dialect::{Expiry, ResultKind};
use crate::engine::EngineError;

impl Protocol {
    /// Ends an operation that has succeeded or failed. Stores its result and applies its consequences to the state, for example
    /// adds a saved checkpoint.
    pub(super) fn conclude(
        &mut self,
        at: Stamp,
        id: OperationId,
        result: Result<Product, EngineError>,
    ) {
        let Some(operation) = self.operations.get(id) else {
            return;
        };
        let goal = operation.goal().clone();
        let model = operation.model().unwrap_or_default().to_owned();
        let result = match result {
            Ok(product) => self.succeed(at, goal, &model, product),
            Err(error) => {
                self.fail(at, &goal, &model, &error);
                Err(error)
            }
        };
        self.end(at, id, result);
    }

    fn succeed(
        &mut self,
        at: Stamp,
        goal: Goal,
        model: &str,
        product: Product,
    ) -> Result<Payload, EngineError> {
        let model_id = || Some(model.to_owned());
        Ok(match (goal, product) {
            (
                Goal::Compute,
                Product::Pass(payload) | Product::Sample(payload) | Product::Step(payload),
            ) => payload,
            (Goal::CreateModel, Product::Nothing) => {
                let created = self.models.get(model);
                let kind = created.map(|model| ResultKind::Model(&model.base().name, model.lora()));
                self.encode_result(
                    model,
                    kind,
                    &ModelCreated {
                        model_id: model.to_owned(),
                    },
                )
            }
            (Goal::CreateFrom(path) | Goal::LoadInto(path), Product::Nothing) => {
                let mut loaded = LoadedWeights::new(path);
                loaded.model_id = model_id();
                self.encode_result(model, Some(ResultKind::Loaded), &loaded)
            }
            (Goal::Unload, Product::Nothing) => {
                self.end_snapshots(model);
                Payload::json(&UnloadedModel {
                    model_id: model_id(),
                })
            }
            (Goal::Save(mut record), Product::Saved(size_bytes)) => {
                record.size_bytes = size_bytes;
                let path = record.path.clone();
                self.checkpoints.insert(&mut self.agenda, at, *record);
                self.checkpoints.end_save(&mut self.agenda, at, &path);
                let kind = Some(ResultKind::Saved(&path));
                match path.kind() {
                    Some(CheckpointKind::Sampler) => {
                        self.encode_result(model, kind, &SavedSamplerWeights::named(path.clone()))
                    }
                    _ => self.encode_result(model, kind, &SavedWeights::new(path.clone())),
                }
            }
            (Goal::Snapshot(sampler, id), Product::Nothing) => {
                self.add_snapshot(model, &id, *sampler);
                self.encode_result(
                    model,
                    Some(ResultKind::Snapshot(&id)),
                    &SavedSamplerWeights::unnamed(&id),
                )
            }
            (goal, product) => {
                let error = EngineError::server(format!(
                    "the engine returned {product:?}, which is not the outcome of this request"
                ));
                self.fail(at, &goal, model, &error);
                return Err(error);
            }
        })
    }

    /// Encodes the result of an operation as JSON, as the imitated server does. If that server uses the format of the official
    /// service, encodes `official`.
    fn encode_result<T: Serialize>(
        &self,
        model: &str,
        kind: Option<ResultKind<'_>>,
        official: &T,
    ) -> Payload {
        let other = kind.and_then(|kind| self.config.dialect.result(model, kind));
        match other {
            Some(body) => Payload::json(&body),
            None => Payload::json(official),
        }
    }

    /// Applies the consequences of a failed operation to the state. For example, a model whose creation failed refuses requests.
    fn fail(&mut self, at: Stamp, goal: &Goal, model: &str, error: &EngineError) {
        match goal {
            Goal::CreateModel | Goal::CreateFrom(_) => self.creation_failed(at, model, error),
            Goal::Save(record) => {
                self.checkpoints
                    .end_save(&mut self.agenda, at, &record.path);
            }
            Goal::LoadInto(_) | Goal::Unload | Goal::Compute | Goal::Snapshot(..) => {}
        }
    }

    /// Stores the result of an operation that has ended, until the result expires. Responds to the polls that wait for the result.
    pub(super) fn end(&mut self, at: Stamp, id: OperationId, result: Result<Payload, EngineError>) {
        let keep = match self.config.dialect.expiry {
            Expiry::After(length) => length.min(self.config.keep_results),
            Expiry::AsConfigured | Expiry::OnceFetched => self.config.keep_results,
        };
        let expires = at.now.after(keep);
        self.operations.end(id, result, expires);
        self.samples.ended(at.now, id);
        self.agenda.add(expires, Alarm::Result(id));
        for (exchange, poll) in self.polls.release_all(&mut self.agenda, id) {
            let response = self.deliver(at, poll);
            self.respond(exchange, response);
        }
        self.report_completion(id);
        while let Some(id) = self.operations.excess(self.config.max_result_bytes) {
            self.forget(id);
        }
    }
}
