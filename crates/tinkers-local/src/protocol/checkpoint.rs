//! Checkpoints: kept, looked up, deleted, ended by their time.

use std::time::Duration;

use http::StatusCode;
use tinkers_wire::{
    Checkpoint, CheckpointKind, CheckpointType, TinkerPath, WeightsInfo, WeightsInfoRequest,
};

use super::model::adamw;
use super::payload::Product;
use super::stamp::rfc3339;
use super::{Alarm, Effect, EngineError, ExchangeId, Protocol, Role, Stamp};
use crate::engine::{CheckpointRecord, Job, Work};
use crate::http::Answer;
use crate::read::Refusal;

impl Protocol {
    /// Enters a checkpoint that is on durable storage.
    pub(super) fn keep_checkpoint(&mut self, at: Stamp, mut record: CheckpointRecord) {
        record.path = canonical(&record.path);
        if let Some(due) = due(at, &record) {
            self.agenda.add(due, Alarm::Checkpoint(record.path.clone()));
        }
        self.checkpoints.insert(record.path.clone(), record);
    }

    /// A checkpoint that is there.
    pub(super) fn checkpoint(&self, path: &TinkerPath) -> Result<&CheckpointRecord, Refusal> {
        let canonical = canonical(path);
        self.checkpoints.get(&canonical).ok_or_else(|| {
            let reason = match self.saving.contains_key(&canonical) {
                true => format!("{path} is still being saved; wait for the result of its save"),
                false => format!("path: no checkpoint {path} on this server"),
            };
            Refusal::not_found(reason)
        })
    }

    /// `POST /weights_info`.
    pub(super) fn weights_info(&self, body: &WeightsInfoRequest) -> Result<Answer, Refusal> {
        let path: TinkerPath =
            body.tinker_path
                .parse()
                .map_err(|error: tinkers_wire::InvalidInput| {
                    Refusal::field("tinker_path", format!("expected {}", error.expected()))
                })?;
        let record = self.checkpoint(&path)?;
        let part = |part: Option<bool>| Some(part.unwrap_or(true));
        Ok(Answer::ok(&WeightsInfo {
            base_model: record.base_model.clone(),
            optimizer_config: Some(adamw()),
            is_lora: true,
            lora_rank: Some(record.lora.rank),
            train_unembed: part(record.lora.train_unembed),
            train_mlp: part(record.lora.train_mlp),
            train_attn: part(record.lora.train_attn),
        }))
    }

    /// `DELETE /training_runs/{run}/checkpoints/{checkpoint}`. Answered when it is gone.
    pub(super) fn delete_checkpoint(
        &mut self,
        exchange: ExchangeId,
        run: &str,
        checkpoint: &str,
    ) -> Result<Option<Answer>, Refusal> {
        let Ok(path) = format!("tinker://{run}/{checkpoint}").parse::<TinkerPath>() else {
            let reason =
                format!("expected weights/<name> or sampler_weights/<name>, got {checkpoint:?}");
            return Err(Refusal::new(StatusCode::BAD_REQUEST, reason));
        };
        let path = self.checkpoint(&path)?.path.clone();
        if self.saving.contains_key(&path) {
            let reason =
                format!("{path} is being saved; delete it when its save has ended, or not at all");
            return Err(Refusal::conflict(reason));
        }
        self.delete(path, Some(exchange));
        Ok(None)
    }

    fn delete(&mut self, path: TinkerPath, exchange: Option<ExchangeId>) {
        let Some(record) = self.checkpoints.remove(&path) else {
            return;
        };
        self.deleting.insert(path.clone());
        let id = self.ids.next_job();
        self.jobs
            .insert(id, Role::Delete(exchange, Box::new(record)));
        let work = Work::DeleteCheckpoint { path };
        self.out.push(Effect::Start(Job { id, work }));
    }

    /// A save of `path` was accepted: until it has ended, nothing deletes what is there.
    ///
    /// # Errors
    /// When what is there is being deleted: which of the two came last could not be told afterwards.
    pub(super) fn begin_save(&mut self, path: &TinkerPath) -> Result<(), Refusal> {
        if self.deleting.contains(path) {
            let reason = format!("{path} is being deleted; save again when it is gone");
            return Err(Refusal::conflict(reason));
        }
        *self.saving.entry(path.clone()).or_default() += 1;
        Ok(())
    }

    /// A save of `path` has ended, well or badly.
    pub(super) fn end_save(&mut self, at: Stamp, path: &TinkerPath) {
        if let Some(saves) = self.saving.get_mut(path) {
            *saves -= 1;
            if *saves == 0 {
                self.saving.remove(path);
            }
        }
        // Its time may have come meanwhile.
        let due = self.checkpoints.get(path).and_then(|old| due(at, old));
        if let Some(due) = due {
            self.agenda.add(due, Alarm::Checkpoint(path.clone()));
        }
    }

    /// The engine has deleted a checkpoint, or could not.
    pub(super) fn deleted(
        &mut self,
        at: Stamp,
        exchange: Option<ExchangeId>,
        record: CheckpointRecord,
        result: Result<Product, EngineError>,
    ) {
        self.deleting.remove(&record.path);
        let Some(exchange) = exchange else {
            if let Err(error) = result {
                tracing::warn!(path = %record.path, %error, "a checkpoint could not be deleted at its time");
            }
            return;
        };
        let answer = match result {
            Ok(_) => Answer::empty(StatusCode::NO_CONTENT),
            Err(error) => {
                let reason = format!("{} could not be deleted: {}", record.path, error.message);
                self.keep_checkpoint(at, record);
                Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, reason).into_answer()
            }
        };
        self.respond(exchange, answer);
    }

    /// A checkpoint may have reached the end of its time.
    pub(super) fn checkpoint_is_due(&mut self, at: Stamp, path: &TinkerPath) {
        let Some(record) = self.checkpoints.get(path) else {
            return;
        };
        // It may have been replaced by one that stays longer, or the date may have been set back.
        match due(at, record) {
            Some(due) if due > at.now => self.agenda.add(due, Alarm::Checkpoint(path.clone())),
            // One that is being replaced is looked at again when its save has ended.
            Some(_) if self.saving.contains_key(path) => {}
            Some(_) => self.delete(path.clone(), None),
            None => {}
        }
    }
}

/// When a checkpoint goes, on the monotonic clock.
fn due(at: Stamp, record: &CheckpointRecord) -> Option<tinkers_core::Moment> {
    let left = record.expires_at? - CheckpointRecord::seconds(at.wall);
    // What does not fit a duration is either long past or beyond any server's life.
    let left = Duration::try_from_secs_f64(left).unwrap_or(if left > 0.0 {
        Duration::MAX
    } else {
        Duration::ZERO
    });
    Some(at.now.after(left))
}

/// The path with its kind, which a sampler's may lack.
fn canonical(path: &TinkerPath) -> TinkerPath {
    TinkerPath::new(path.run_id(), path.kind(), path.name()).unwrap_or_else(|_| path.clone())
}

/// A record as it is listed.
pub(super) fn listed(record: &CheckpointRecord) -> Checkpoint {
    Checkpoint {
        checkpoint_id: record.path.checkpoint_id(),
        checkpoint_type: CheckpointType::Known(record.path.kind()),
        time: rfc3339(record.saved_at),
        tinker_path: record.path.to_string(),
        size_bytes: Some(record.size_bytes),
        public: false,
        user_metadata: record.user_metadata.clone(),
        expires_at: record.expires_at.map(rfc3339),
    }
}

/// The newest of a kind among the records of a run.
pub(super) fn newest<'a>(
    records: impl Iterator<Item = &'a CheckpointRecord>,
    kind: CheckpointKind,
) -> Option<Checkpoint> {
    records
        .filter(|record| record.path.kind() == kind)
        .max_by(|a, b| a.saved_at.total_cmp(&b.saved_at))
        .map(listed)
}
