//! The training thread. It owns the models in training and runs the jobs that change them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tinkers_local::engine::{CheckpointRecord, EngineError, Job, Outcome, Overwrite, Work};
use tinkers_wire::{AdamParams, CheckpointKind, OptimStepResult, TinkerPath};

use super::convert::{adamw, key, lora};
use super::{Shared, pass};
use crate::adamw::AdamW;
use crate::checkpoint::CheckpointContents;
use crate::error::{Error, Result};
use crate::sample::Sampler;
use crate::threads::Threads;
use crate::train::TrainableModel;

/// The state of the thread that runs training jobs: the models in training, by name.
#[derive(Debug)]
pub(super) struct TrainingWorker {
    shared: Arc<Shared>,
    threads: Threads,
    models: BTreeMap<String, TrainableModel>,
}

impl TrainingWorker {
    pub(super) fn new(shared: Arc<Shared>, threads: Threads) -> Self {
        Self {
            shared,
            threads,
            models: BTreeMap::new(),
        }
    }

    pub(super) fn run(&mut self, job: &Job) -> Result<Outcome, EngineError> {
        let outcome = match &job.work {
            Work::CreateModel {
                model,
                base_model,
                lora: config,
            } => {
                let seed = self.shared.seed_of(job.id);
                self.create(model, base_model, lora(config, seed))?
            }
            Work::CreateFromCheckpoint {
                model,
                path,
                optimizer,
            } => {
                let trainable = self.read(path, *optimizer)?;
                self.models.insert(model.clone(), trainable);
                Outcome::Done
            }
            Work::LoadCheckpoint {
                model,
                path,
                optimizer,
            } => self.load(model, path, *optimizer)?,
            Work::UnloadModel { model } => {
                self.models.remove(model);
                Outcome::Done
            }
            Work::Pass {
                model,
                mode,
                data,
                loss,
            } => {
                let threads = &self.threads;
                let trainable = find(&mut self.models, model)?;
                Outcome::Pass(pass::run(threads, trainable, *mode, data, loss)?)
            }
            Work::OptimStep { model, params } => self.step(model, params)?,
            Work::Save {
                model,
                record,
                overwrite,
            } => self.save(model, record, *overwrite)?,
            Work::Snapshot { model, sampler } => {
                let trainable = find(&mut self.models, model)?;
                let base = Arc::clone(trainable.base());
                let text = Arc::clone(&self.shared.text);
                let snapshot = Sampler::new(base, Some(trainable.lora()), text);
                self.shared.samplers.put_snapshot(sampler, snapshot);
                Outcome::Done
            }
            Work::DropSnapshot { sampler } => {
                self.shared.samplers.drop_snapshot(sampler);
                Outcome::Done
            }
            other => {
                return Err(EngineError::server(format!(
                    "the training thread received a job of another kind: {other:?}"
                )));
            }
        };
        Ok(outcome)
    }

    fn create(
        &mut self,
        model: &str,
        base_model: &str,
        config: crate::AdapterConfig,
    ) -> Result<Outcome> {
        self.shared.check_name(base_model)?;
        let trainable = TrainableModel::new(Arc::clone(&self.shared.model), config)?;
        self.models.insert(model.to_owned(), trainable);
        Ok(Outcome::Done)
    }

    fn read(&self, path: &TinkerPath, optimizer: bool) -> Result<TrainableModel> {
        let checkpoint = self.shared.read(path)?;
        let fresh = AdamW::new(checkpoint.lora.params());
        let state = match (optimizer, checkpoint.optimizer) {
            (false, _) => fresh,
            (true, Some(state)) => state,
            (true, None) => {
                return Err(Error::input(
                    "optimizer",
                    format!("is true, but {path} has no optimizer state"),
                ));
            }
        };
        let base = Arc::clone(&self.shared.model);
        Ok(TrainableModel::from_parts(base, checkpoint.lora, state))
    }

    fn load(&mut self, model: &str, path: &TinkerPath, optimizer: bool) -> Result<Outcome> {
        let read = self.read(path, optimizer)?;
        let trainable = find(&mut self.models, model)?;
        let (have, want) = (read.lora().config(), trainable.lora().config());
        let shape = |c: &crate::AdapterConfig| (c.rank, c.train_attn, c.train_mlp, c.train_unembed);
        if shape(have) != shape(want) {
            return Err(Error::input(
                "path",
                format!("has an adapter of {have:?}, expected {want:?}"),
            ));
        }
        *trainable = read;
        Ok(Outcome::Done)
    }

    fn step(&mut self, model: &str, params: &AdamParams) -> Result<Outcome> {
        // The model is removed from the map during the step. If the step panics, the half-changed model is dropped.
        let mut trainable = self.models.remove(model).ok_or_else(|| unknown(model))?;
        let report = trainable.step(&adamw(params));
        let steps = trainable.optimizer().steps();
        self.models.insert(model.to_owned(), trainable);
        let report = report?;
        #[expect(clippy::cast_precision_loss, reason = "step counts are far below 2^53")]
        let metrics = [
            ("grad_norm:mean", report.grad_norm),
            ("param_norm:mean", report.param_norm),
            ("update_norm:mean", report.update_norm),
            ("optimizer_steps:max", steps as f64),
            ("learning_rate:mean", params.learning_rate),
        ];
        let metrics = metrics.map(|(name, value)| (name.to_owned(), value)).into();
        Ok(Outcome::Step(OptimStepResult::new(metrics)))
    }

    fn save(
        &mut self,
        model: &str,
        record: &CheckpointRecord,
        overwrite: Overwrite,
    ) -> Result<Outcome> {
        let key = key(&record.path);
        let store = &self.shared.store;
        if overwrite == Overwrite::Refuse && store.contains(&key)? {
            return Err(Error::input(
                "path",
                format!(
                    "{} is already saved; choose another name or overwrite it",
                    record.path
                ),
            ));
        }
        let trainable = find(&mut self.models, model)?;
        let record = &CheckpointRecord {
            base_fingerprint: self.shared.base.fingerprint.clone(),
            ..record.clone()
        };
        let keeps_optimizer = record.path.kind() == Some(CheckpointKind::Training);
        let checkpoint = CheckpointContents {
            lora: trainable.lora().clone(),
            optimizer: keeps_optimizer.then(|| trainable.optimizer().clone()),
            record: serde_json::to_string(record)
                .map_err(|e| Error::Model(format!("cannot encode the checkpoint record: {e}")))?,
        };
        let path = &record.path;
        let size_bytes = self
            .shared
            .samplers
            .invalidate_during(path, || store.save(&key, &checkpoint))?;
        Ok(Outcome::Saved { size_bytes })
    }
}

fn find<'a>(
    models: &'a mut BTreeMap<String, TrainableModel>,
    model: &str,
) -> Result<&'a mut TrainableModel> {
    models.get_mut(model).ok_or_else(|| unknown(model))
}

fn unknown(model: &str) -> Error {
    Error::input("model_id", format!("{model:?} is not loaded"))
}
