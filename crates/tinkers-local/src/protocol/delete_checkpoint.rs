//! The description and deletion of checkpoints.

use http::StatusCode;
use serde_json::json;
use tinkers_wire::{TinkerPath, WeightsInfo, WeightsInfoRequest};

use super::ids::ExchangeId;
use super::optimizer::adamw;
use super::payload::Product;
use super::state::jobs::Role;
use super::state::records::AuditEvent;
use super::{Protocol, Stamp};
use crate::engine::{CheckpointRecord, EngineError, Work};
use crate::http::LazyResponse;
use crate::read::Refusal;

impl Protocol {
    /// Handles `POST /weights_info`, which describes a checkpoint.
    pub(super) fn weights_info(&self, body: &WeightsInfoRequest) -> Result<LazyResponse, Refusal> {
        let path = body.tinker_path.parse::<TinkerPath>();
        let Some(path) = path.ok().filter(|path| path.kind().is_some()) else {
            let reason = format!(
                "expected tinker://<run>/weights/<name> or tinker://<run>/sampler_weights/<name>, got {:?}",
                body.tinker_path
            );
            return Err(Refusal::field("tinker_path", reason));
        };
        let record = self.checkpoints.get(&path)?;
        let part = |part: Option<bool>| Some(part.unwrap_or(true));
        let mut info = WeightsInfo::new(&record.base_model);
        info.optimizer_config = Some(adamw());
        info.is_lora = true;
        info.lora_rank = Some(record.lora.rank);
        info.train_unembed = part(record.lora.train_unembed);
        info.train_mlp = part(record.lora.train_mlp);
        info.train_attn = part(record.lora.train_attn);
        Ok(LazyResponse::ok(&info))
    }

    /// Handles `DELETE /training_runs/{run}/checkpoints/{checkpoint}`. The response is sent when the engine has deleted the
    /// checkpoint.
    pub(super) fn delete_checkpoint(
        &mut self,
        exchange: ExchangeId,
        run: &str,
        checkpoint: &str,
    ) -> Result<Option<LazyResponse>, Refusal> {
        let path = path_of(run, checkpoint)?;
        let record = self.checkpoints.begin_delete(&mut self.agenda, &path)?;
        self.start_delete(record, Some(exchange));
        Ok(None)
    }

    fn start_delete(&mut self, record: CheckpointRecord, exchange: Option<ExchangeId>) {
        let path = record.path.clone();
        let role = Role::Delete(exchange, Box::new(record));
        let start = self.jobs.start(role, Work::DeleteCheckpoint { path });
        self.effects.push(start);
    }

    /// Applies the outcome of a checkpoint deletion by the engine to the state. If a client asked for the deletion, responds to
    /// this client.
    pub(super) fn checkpoint_deleted(
        &mut self,
        at: Stamp,
        exchange: Option<ExchangeId>,
        record: CheckpointRecord,
        result: Result<Product, EngineError>,
    ) {
        self.checkpoints.end_delete(&record.path);
        if result.is_ok() {
            self.records.checkpoints.remove(record.path.as_str());
            let event = match exchange {
                Some(_) => AuditEvent::CheckpointDeleted,
                None => AuditEvent::CheckpointExpired,
            };
            let details = json!({ "tinker_path": record.path });
            self.records.log(at, &record.owner(), event, details);
        }
        let Some(exchange) = exchange else {
            if let Err(error) = result {
                tracing::warn!(path = %record.path, %error, "an expired checkpoint could not be deleted");
            }
            return;
        };
        let response = match result {
            Ok(_) => LazyResponse::empty(StatusCode::NO_CONTENT),
            Err(error) => {
                let reason = format!("{} could not be deleted: {}", record.path, error.message);
                self.checkpoints.insert(&mut self.agenda, at, record);
                Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, reason).into_response()
            }
        };
        self.respond(exchange, response);
    }

    /// Deletes a checkpoint if it has expired. Called at the time for which its expiry was planned.
    pub(super) fn checkpoint_is_due(&mut self, at: Stamp, path: &TinkerPath) {
        let expired = self.checkpoints.begin_expiry(&mut self.agenda, at, path);
        if let Some(record) = expired {
            self.start_delete(record, None);
        }
    }
}

/// Returns the path of the checkpoint that the path of a request names.
///
/// # Errors
///
/// If `checkpoint` is not the kind and the name of a checkpoint, such as `weights/step-10`.
pub(super) fn path_of(run: &str, checkpoint: &str) -> Result<TinkerPath, Refusal> {
    let path = format!("tinker://{run}/{checkpoint}").parse::<TinkerPath>();
    // The path of a checkpoint may omit the kind; the path of a request may not.
    let is_named = |path: &TinkerPath| path.checkpoint_id().as_deref() == Some(checkpoint);
    path.ok().filter(is_named).ok_or_else(|| {
        let reason =
            format!("expected weights/<name> or sampler_weights/<name>, got {checkpoint:?}");
        Refusal::new(StatusCode::BAD_REQUEST, reason)
    })
}
