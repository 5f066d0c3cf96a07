//! The training thread: models by id, and the jobs that change them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tinkers_local::engine::{CheckpointRecord, EngineError, Job, Outcome, Overwrite, Work};
use tinkers_wire::{AdamParams, CheckpointKind, OptimStepResult, TinkerPath};

use super::convert::{adamw, key, lora};
use super::{Shared, pass};
use crate::adamw::AdamW;
use crate::checkpoint::Saved;
use crate::error::{Error, Result};
use crate::sample::Sampler;
use crate::threads::Threads;
use crate::train::Trainee;

/// What the training thread owns.
#[derive(Debug)]
pub(super) struct Trainer {
    shared: Arc<Shared>,
    threads: Threads,
    models: BTreeMap<String, Trainee>,
}

impl Trainer {
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
                let trainee = self.read(path, *optimizer)?;
                self.models.insert(model.clone(), trainee);
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
                let trainee = trainee(&mut self.models, model)?;
                Outcome::Pass(pass::run(threads, trainee, *mode, data, loss)?)
            }
            Work::OptimStep { model, params } => self.step(model, params)?,
            Work::Save {
                model,
                record,
                overwrite,
            } => self.save(model, record, *overwrite)?,
            Work::Snapshot { model, sampler } => {
                let trainee = trainee(&mut self.models, model)?;
                let base = Arc::clone(trainee.base());
                let text = Arc::clone(&self.shared.text);
                let snapshot = Sampler::new(base, Some(trainee.lora()), text);
                self.shared.shelf.put_snapshot(sampler, snapshot);
                Outcome::Done
            }
            Work::DropSnapshot { sampler } => {
                self.shared.shelf.drop_snapshot(sampler);
                Outcome::Done
            }
            other => {
                return Err(EngineError::server(format!(
                    "the training thread was given {other:?}"
                )));
            }
        };
        Ok(outcome)
    }

    fn create(
        &mut self,
        model: &str,
        base_model: &str,
        config: crate::LoraConfig,
    ) -> Result<Outcome> {
        self.shared.check_name(base_model)?;
        let trainee = Trainee::new(Arc::clone(&self.shared.model), config)?;
        self.models.insert(model.to_owned(), trainee);
        Ok(Outcome::Done)
    }

    fn read(&self, path: &TinkerPath, optimizer: bool) -> Result<Trainee> {
        let saved = self.shared.read(path)?;
        let fresh = AdamW::new(saved.lora.params());
        let memory = match (optimizer, saved.optimizer) {
            (false, _) => fresh,
            (true, Some(memory)) => memory,
            (true, None) => {
                return Err(Error::input(
                    "optimizer",
                    format!("is true, but {path} holds no optimizer state"),
                ));
            }
        };
        let base = Arc::clone(&self.shared.model);
        Ok(Trainee::from_parts(base, saved.lora, memory))
    }

    fn load(&mut self, model: &str, path: &TinkerPath, optimizer: bool) -> Result<Outcome> {
        let read = self.read(path, optimizer)?;
        let trainee = trainee(&mut self.models, model)?;
        let (have, want) = (read.lora().config(), trainee.lora().config());
        let shape = |c: &crate::LoraConfig| (c.rank, c.train_attn, c.train_mlp, c.train_unembed);
        if shape(have) != shape(want) {
            return Err(Error::input(
                "path",
                format!("holds an adapter of {have:?}, the model's is of {want:?}"),
            ));
        }
        *trainee = read;
        Ok(Outcome::Done)
    }

    fn step(&mut self, model: &str, params: &AdamParams) -> Result<Outcome> {
        // Out of the map while it changes: should the step panic, no half-changed model is left behind.
        let mut trainee = self.models.remove(model).ok_or_else(|| unknown(model))?;
        let report = trainee.step(&adamw(params));
        let steps = trainee.optimizer().steps();
        self.models.insert(model.to_owned(), trainee);
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
        Ok(Outcome::Step(OptimStepResult { metrics }))
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
                format!("{} is there already", record.path),
            ));
        }
        let trainee = trainee(&mut self.models, model)?;
        let record = &CheckpointRecord {
            base_fingerprint: self.shared.base.fingerprint.clone(),
            ..record.clone()
        };
        let keeps_optimizer = record.path.kind() == CheckpointKind::Training;
        let saved = Saved {
            lora: trainee.lora().clone(),
            optimizer: keeps_optimizer.then(|| trainee.optimizer().clone()),
            record: serde_json::to_string(record)
                .map_err(|e| Error::Model(format!("the record cannot be written: {e}")))?,
        };
        let path = &record.path;
        let size_bytes = self
            .shared
            .shelf
            .changing(path, || store.save(&key, &saved))?;
        Ok(Outcome::Saved { size_bytes })
    }
}

fn trainee<'a>(models: &'a mut BTreeMap<String, Trainee>, model: &str) -> Result<&'a mut Trainee> {
    models.get_mut(model).ok_or_else(|| unknown(model))
}

fn unknown(model: &str) -> Error {
    Error::input("model_id", format!("{model:?} is not loaded"))
}
