//! Changes of saved checkpoints: publication, expiry, and copies to projects.

use http::StatusCode;
use serde_json::json;
use tinkers_wire::{
    AssignSessionProject, CopyWeights, NewCheckpoint, SetCheckpointTtl, TinkerPath,
};

use crate::access::Owner;
use crate::engine::{CheckpointRecord, EngineError, Work};
use crate::http::LazyResponse;
use crate::protocol::delete_checkpoint::path_of;
use crate::protocol::ids::ExchangeId;
use crate::protocol::payload::Product;
use crate::protocol::state::jobs::Role;
use crate::protocol::{Protocol, Stamp};
use crate::read::Refusal;

impl Protocol {
    /// Handles `POST` and `DELETE /training_runs/{run}/checkpoints/{checkpoint}/publish`. The response is sent when the engine has stored
    /// the change.
    pub(in crate::protocol) fn set_public(
        &mut self,
        exchange: ExchangeId,
        run: &str,
        checkpoint: &str,
        public: bool,
    ) -> Result<Option<LazyResponse>, Refusal> {
        let path = path_of(run, checkpoint)?;
        // The stored state is known only when no other change is in progress.
        let mut record = self.checkpoints.begin_change(&path)?;
        if record.public == public {
            self.checkpoints.cancel_change(&path);
            let state = match public {
                true => "is already public",
                false => "is not public",
            };
            return Err(Refusal::conflict(format!("{path} {state}")));
        }
        record.public = public;
        self.start_change(exchange, record);
        Ok(None)
    }

    /// Handles `PUT /training_runs/{run}/checkpoints/{checkpoint}/ttl`. The response is sent when the engine has stored the change.
    pub(in crate::protocol) fn set_ttl(
        &mut self,
        at: Stamp,
        exchange: ExchangeId,
        run: &str,
        checkpoint: &str,
        body: SetCheckpointTtl,
    ) -> Result<Option<LazyResponse>, Refusal> {
        body.validate()
            .map_err(|error| Refusal::invalid("", &error))?;
        let path = path_of(run, checkpoint)?;
        let mut record = self.checkpoints.begin_change(&path)?;
        record.expires_at = expiry(at, body.ttl_seconds);
        self.start_change(exchange, record);
        Ok(None)
    }

    /// Handles `POST /copy_weights`. The response is sent when the engine has stored the copy.
    pub(in crate::protocol) fn copy_weights(
        &mut self,
        at: Stamp,
        exchange: ExchangeId,
        owner: &Owner,
        body: &CopyWeights,
    ) -> Result<Option<LazyResponse>, Refusal> {
        body.validate()
            .map_err(|error| Refusal::invalid("", &error))?;
        let source = body.source_path.parse::<TinkerPath>().ok();
        let Some((source, kind)) = source.and_then(|path| path.kind().map(|kind| (path, kind)))
        else {
            let reason = format!(
                "expected tinker://<run>/<kind>/<name>, got {:?}",
                body.source_path
            );
            return Err(Refusal::field("source_path", reason));
        };
        let project = body.destination_project_id.as_deref().unwrap_or_default();
        if project.is_empty() {
            let reason = "expected the id of the project that the copy belongs to";
            return Err(Refusal::field("destination_project_id", reason));
        }
        let mut record = self.checkpoints.get(&source)?.clone();
        let (source, source_owner) = (record.path.clone(), record.owner());
        record.path = loop {
            let run = self.sessions.fresh_id("copy");
            let path = TinkerPath::new(&run, kind, source.name());
            let path = path.map_err(|error| Refusal::invalid("", &error))?;
            if !self.checkpoints.is_in_use(&path) {
                break path;
            }
        };
        record.saved_at = CheckpointRecord::seconds(at.wall);
        record.expires_at = expiry(at, body.ttl_seconds);
        record.public = false;
        // The metadata of a published checkpoint is not public.
        if source_owner != *owner {
            record.user_metadata = None;
            record.run_metadata = None;
        }
        record.owner = CheckpointRecord::stored_owner(owner);
        record.project_id = Some(project.to_owned());
        // Reserves the path.
        self.checkpoints.begin_save(&record.path)?;
        let role = Role::Copy(exchange, Box::new(record.clone()));
        let work = Work::CopyCheckpoint { source, record };
        self.effects.push(self.jobs.start(role, work));
        Ok(None)
    }

    /// Handles `PUT /sessions/{id}/project`: moves a session, even one that has ended, to a project.
    pub(in crate::protocol) fn assign_project(
        &mut self,
        id: &str,
        body: &AssignSessionProject,
    ) -> Result<LazyResponse, Refusal> {
        if body.project_id.is_empty() {
            let reason = "project_id: expected the id of a project";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, reason));
        }
        self.sessions.assign_project(id, &body.project_id)?;
        Ok(LazyResponse::ok(&json!({})))
    }

    /// Starts the engine job that stores the changed record of a checkpoint.
    fn start_change(&mut self, exchange: ExchangeId, record: CheckpointRecord) {
        let role = Role::Change(exchange, Box::new(record.clone()));
        let work = Work::UpdateCheckpoint { record };
        self.effects.push(self.jobs.start(role, work));
    }

    /// Applies the outcome of a change of a checkpoint by the engine, and responds to the client that asked for it.
    pub(in crate::protocol) fn checkpoint_changed(
        &mut self,
        at: Stamp,
        exchange: ExchangeId,
        record: CheckpointRecord,
        result: Result<Product, EngineError>,
    ) {
        let path = record.path.clone();
        let response = match result {
            Ok(_) => {
                self.checkpoints
                    .end_change(&mut self.agenda, at, &path, Some(record));
                LazyResponse::ok(&json!({}))
            }
            Err(error) => {
                self.checkpoints
                    .end_change(&mut self.agenda, at, &path, None);
                let reason = format!("{path} could not be changed: {}", error.message);
                Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, reason).into_response()
            }
        };
        self.respond(exchange, response);
    }

    /// Applies the outcome of a copy by the engine, and responds to the client that asked for it.
    pub(in crate::protocol) fn checkpoint_copied(
        &mut self,
        at: Stamp,
        exchange: ExchangeId,
        mut record: CheckpointRecord,
        result: Result<Product, EngineError>,
    ) {
        let path = record.path.clone();
        let response = match result {
            Ok(product) => {
                if let Product::Saved(size_bytes) = product {
                    record.size_bytes = size_bytes;
                }
                self.checkpoints.insert(&mut self.agenda, at, record);
                LazyResponse::ok(&NewCheckpoint::new(path.as_str()))
            }
            Err(error) => {
                let reason = format!("the checkpoint could not be copied: {}", error.message);
                Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, reason).into_response()
            }
        };
        self.checkpoints.end_save(&mut self.agenda, at, &path);
        self.respond(exchange, response);
    }
}

/// Returns the time of expiry in seconds since the Unix epoch.
fn expiry(at: Stamp, ttl_seconds: Option<u64>) -> Option<f64> {
    // At most ten years, which a float represents exactly.
    ttl_seconds.map(|ttl| CheckpointRecord::seconds(at.wall) + ttl as f64)
}
