//! Changes of saved checkpoints: publication, expiry, and copies to projects.

use http::StatusCode;
use serde_json::json;
use tinkers_wire::{CopyWeights, NewCheckpoint, SetCheckpointTtl, TinkerPath};

use crate::access::Owner;
use crate::engine::{CheckpointRecord, EngineError, Work};
use crate::http::LazyResponse;
use crate::protocol::delete_checkpoint::path_of;
use crate::protocol::ids::ExchangeId;
use crate::protocol::listing::date;
use crate::protocol::payload::Product;
use crate::protocol::state::jobs::Role;
use crate::protocol::state::records::{AuditEvent, CheckpointChange};
use crate::protocol::{Protocol, Stamp};
use crate::read::Refusal;

impl Protocol {
    /// Handles `POST` and `DELETE /training_runs/{run}/checkpoints/{checkpoint}/publish`.
    pub(in crate::protocol) fn set_public(
        &mut self,
        at: Stamp,
        owner: &Owner,
        run: &str,
        checkpoint: &str,
        public: bool,
    ) -> Result<LazyResponse, Refusal> {
        let record = self.checkpoints.get(&path_of(run, checkpoint)?)?.clone();
        let path = &record.path;
        let event = match (record.public, public) {
            (false, true) => AuditEvent::CheckpointPublished,
            (true, false) => AuditEvent::CheckpointUnpublished,
            (true, true) => return Err(Refusal::conflict(format!("{path} is already public"))),
            (false, false) => return Err(Refusal::conflict(format!("{path} is not public"))),
        };
        let details = json!({ "tinker_path": path });
        self.records.log(at, owner, event, details);
        let expires_at = record.expires_at;
        self.change_checkpoint(at, &record, public, expires_at);
        Ok(LazyResponse::ok(&json!({})))
    }

    /// Handles `PUT /training_runs/{run}/checkpoints/{checkpoint}/ttl`.
    pub(in crate::protocol) fn set_ttl(
        &mut self,
        at: Stamp,
        owner: &Owner,
        run: &str,
        checkpoint: &str,
        body: &SetCheckpointTtl,
    ) -> Result<LazyResponse, Refusal> {
        body.validate()
            .map_err(|error| Refusal::invalid("", &error))?;
        let record = self.checkpoints.get(&path_of(run, checkpoint)?)?.clone();
        let expires_at = expiry(at, body.ttl_seconds);
        let details = json!({
            "tinker_path": record.path,
            "ttl_seconds": body.ttl_seconds,
            "expires_at": expires_at.map(date),
        });
        self.records
            .log(at, owner, AuditEvent::CheckpointTtlSet, details);
        let public = record.public;
        self.change_checkpoint(at, &record, public, expires_at);
        Ok(LazyResponse::ok(&json!({})))
    }

    /// Changes whether a checkpoint is published and when it expires.
    fn change_checkpoint(
        &mut self,
        at: Stamp,
        record: &CheckpointRecord,
        public: bool,
        expires_at: Option<f64>,
    ) {
        let change = CheckpointChange {
            saved_at: record.saved_at,
            public,
            expires_at,
        };
        let path = &record.path;
        self.checkpoints.change(&mut self.agenda, at, path, &change);
        self.records.checkpoints.insert(path.to_string(), change);
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
        let role = Role::Copy(exchange, source.clone(), Box::new(record.clone()));
        let work = Work::CopyCheckpoint { source, record };
        self.effects.push(self.jobs.start(role, work));
        Ok(None)
    }

    /// Applies the outcome of a copy by the engine, and responds to the client that asked for it.
    pub(in crate::protocol) fn checkpoint_copied(
        &mut self,
        at: Stamp,
        exchange: ExchangeId,
        source: &TinkerPath,
        mut record: CheckpointRecord,
        result: Result<Product, EngineError>,
    ) {
        let path = record.path.clone();
        let response = match result {
            Ok(product) => {
                if let Product::Saved(size_bytes) = product {
                    record.size_bytes = size_bytes;
                }
                let details = json!({
                    "tinker_path": path,
                    "source_path": source,
                    "project_id": record.project_id,
                });
                let event = AuditEvent::CheckpointCopied;
                self.records.log(at, &record.owner(), event, details);
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
