//! What becomes of an operation's outcome: its result, and what the server knows from then on.

use serde::Serialize;
use tinkers_wire::{
    CheckpointKind, LoadedWeights, ModelCreated, SavedSamplerWeights, SavedWeights, TinkerPath,
    UnloadedModel,
};

use super::payload::Product;
use super::sampler::Sampler;
use super::{EngineError, OperationId, Origin, Payload, Protocol, Stamp};
use crate::dialect::Told;
use crate::engine::CheckpointRecord;

/// What an operation is for.
#[derive(Debug, Clone)]
pub(super) enum Goal {
    CreateModel,
    /// A new model from a checkpoint.
    CreateFrom(TinkerPath),
    /// A checkpoint into a model that is there.
    LoadInto(TinkerPath),
    Unload,
    /// A pass, a step or a sample: the outcome is the result.
    Compute,
    Save(Box<CheckpointRecord>),
    /// A sampler of a model's weights, in the session and under the id.
    Snapshot(Box<Sampler>, String),
}

impl Protocol {
    /// An operation has ended, well or badly.
    pub(super) fn conclude(
        &mut self,
        at: Stamp,
        id: OperationId,
        result: Result<Product, EngineError>,
    ) {
        let Some(operation) = self.operations.get(&id) else {
            return;
        };
        let (goal, origin) = (operation.goal.clone(), operation.origin.clone());
        let model = match origin {
            Origin::Model(model, _) => model,
            _ => String::new(),
        };
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
                let made = self.models.get(model);
                let told = made.map(|made| Told::Model(&made.base.name, &made.lora));
                self.told(
                    model,
                    told,
                    &ModelCreated {
                        model_id: model.to_owned(),
                    },
                )
            }
            (Goal::CreateFrom(path) | Goal::LoadInto(path), Product::Nothing) => self.told(
                model,
                Some(Told::Loaded),
                &LoadedWeights {
                    path: Some(path),
                    model_id: model_id(),
                },
            ),
            (Goal::Unload, Product::Nothing) => {
                self.unloaded(model);
                Payload::json(&UnloadedModel {
                    model_id: model_id(),
                })
            }
            (Goal::Save(mut record), Product::Saved(size_bytes)) => {
                record.size_bytes = size_bytes;
                let path = record.path.clone();
                self.keep_checkpoint(at, *record);
                self.end_save(at, &path);
                let told = Some(Told::Saved(&path));
                match path.kind() {
                    CheckpointKind::Sampler => self.told(
                        model,
                        told,
                        &SavedSamplerWeights {
                            path: Some(path.clone()),
                            sampling_session_id: None,
                        },
                    ),
                    _ => self.told(model, told, &SavedWeights { path: path.clone() }),
                }
            }
            (Goal::Snapshot(sampler, id), Product::Nothing) => {
                self.keep_snapshot(model, &id, *sampler);
                self.told(
                    model,
                    Some(Told::Snapshot(&id)),
                    &SavedSamplerWeights {
                        path: None,
                        sampling_session_id: Some(id.clone()),
                    },
                )
            }
            (goal, product) => {
                let error = EngineError::server(format!(
                    "the engine gave {product:?} where another outcome was due"
                ));
                self.fail(at, &goal, model, &error);
                return Err(error);
            }
        })
    }

    /// The result as the dialect has it, else as the official service does.
    fn told<T: Serialize>(&self, model: &str, told: Option<Told<'_>>, official: &T) -> Payload {
        let other = told.and_then(|told| self.config.dialect.told(model, told));
        match other {
            Some(body) => Payload::json(&body),
            None => Payload::json(official),
        }
    }

    /// Takes back what was held for an operation that failed.
    fn fail(&mut self, at: Stamp, goal: &Goal, model: &str, error: &EngineError) {
        match goal {
            Goal::CreateModel | Goal::CreateFrom(_) => self.creation_failed(at, model, error),
            Goal::Save(record) => self.end_save(at, &record.path),
            Goal::LoadInto(_) | Goal::Unload | Goal::Compute | Goal::Snapshot(..) => {}
        }
    }
}
