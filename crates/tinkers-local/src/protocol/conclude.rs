//! The end of operations: their results, and the resulting changes of the state.

use serde::Serialize;
use serde_json::json;
use tinkers_wire::{
    CheckpointKind, LoadedWeights, ModelCreated, SavedSamplerWeights, SavedWeights, UnloadedModel,
};

use super::ids::OperationId;
use super::payload::{Payload, Product};
use super::state::agenda::Alarm;
use super::state::operations::{Goal, Operation, Origin};
use super::state::records::{AuditEvent, Used, User};
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
            Ok(product) => {
                self.count(at, id, &product);
                self.succeed(at, goal, &model, product)
            }
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
            (Goal::Pass(..), Product::Pass(payload))
            | (Goal::Step, Product::Step(payload))
            | (Goal::Sample(..), Product::Sample(payload, _)) => payload,
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
                // A change of a checkpoint that was replaced does not apply to the new one.
                self.records.checkpoints.remove(path.as_str());
                let details = json!({ "tinker_path": path, "size_bytes": size_bytes });
                let event = AuditEvent::CheckpointSaved;
                self.records.log(at, &record.owner(), event, details);
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

    /// Adds what an operation has used to the usage of its owner.
    fn count(&mut self, at: Stamp, id: OperationId, product: &Product) {
        let Some(operation) = self.operations.get(id) else {
            return;
        };
        let used = match (operation.goal(), product) {
            (Goal::Pass(_, tokens), Product::Pass(_)) => vec![(Used::TrainingTokens, *tokens)],
            (Goal::Sample(_, prompt), Product::Sample(_, sampled)) => {
                vec![
                    (Used::PromptTokens, *prompt),
                    (Used::SampledTokens, *sampled),
                ]
            }
            (Goal::Save(_), Product::Saved(_)) => vec![(Used::Checkpoints, 1)],
            _ => return,
        };
        if let Some(user) = self.user(operation) {
            for (used, count) in used {
                self.records.add_usage(at, &user, used, count);
            }
        }
    }

    /// Returns the user of an operation: its owner, its session if any, and its base model.
    fn user(&self, operation: &Operation) -> Option<User> {
        let records = &self.records;
        let (owner, session) = match operation.origin() {
            Origin::Model(model, _) => {
                let session = &records.runs.get(model)?.session;
                (records.owner_of_session(session)?, Some(session.clone()))
            }
            Origin::Sampler(sampler, _) => {
                let session = &records.samplers.get(sampler)?.session;
                (records.owner_of_session(session)?, Some(session.clone()))
            }
            Origin::Free(owner) => (owner, None),
        };
        let base_model = match (operation.goal(), operation.model()) {
            (Goal::Sample(base, _), _) => base.name.clone(),
            (_, model) => records.runs.get(model?)?.base_model.clone(),
        };
        Some(User {
            owner: owner.clone(),
            session,
            base_model,
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
            Goal::LoadInto(_)
            | Goal::Unload
            | Goal::Pass(..)
            | Goal::Step
            | Goal::Sample(..)
            | Goal::Refused
            | Goal::Snapshot(..) => {}
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
        self.trace_operation(at, id);
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
