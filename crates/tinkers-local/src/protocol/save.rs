//! Saving weights: to durable storage under a name, or into memory for a sampler.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tinkers_wire::{
    CheckpointKind, InvalidInput, SamplerSaveKind, SaveWeights, SaveWeightsForSampler, TinkerPath,
};

use super::create_sampler::sampler_id;
use super::state::operations::Goal;
use super::state::samplers::Sampler;
use super::{Protocol, Stamp};
use crate::engine::{CheckpointRecord, Overwrite, SamplerWeights, Work};
use crate::http::LazyResponse;
use crate::read::{Digest, Refusal};

/// The parameters of a save of a checkpoint to durable storage.
struct Named<'a> {
    model: &'a str,
    number: u64,
    kind: CheckpointKind,
    name: &'a str,
    overwrite: Overwrite,
    ttl_seconds: Option<u64>,
    user_metadata: Option<BTreeMap<String, String>>,
}

impl Protocol {
    /// Handles `POST /save_weights`, which saves a training checkpoint.
    pub(super) fn save_weights(
        &mut self,
        at: Stamp,
        body: SaveWeights,
        digest: Digest,
    ) -> Result<LazyResponse, Refusal> {
        if let Some(response) = self.repeated(at, &body.model_id, body.seq_id, digest)? {
            return Ok(response);
        }
        body.validate().map_err(invalid)?;
        let free;
        let name = match &body.path {
            Some(name) => name,
            None => {
                free = self.free_name(&body.model_id, CheckpointKind::Training);
                &free
            }
        };
        let overwrite = match body.overwrite {
            Some(true) => Overwrite::Replace,
            _ => Overwrite::Refuse,
        };
        let save = Named {
            model: &body.model_id,
            number: body.seq_id,
            kind: CheckpointKind::Training,
            name,
            overwrite,
            ttl_seconds: body.ttl_seconds,
            user_metadata: body.user_metadata,
        };
        self.save(at, save, digest)
    }

    /// Handles `POST /save_weights_for_sampler`, which saves weights for sampling: with a name as a checkpoint, without a name as a
    /// copy in memory.
    pub(super) fn save_for_sampler(
        &mut self,
        at: Stamp,
        mut body: SaveWeightsForSampler,
        digest: Digest,
    ) -> Result<LazyResponse, Refusal> {
        if let Some(response) = self.repeated(at, &body.model_id, body.seq_id, digest)? {
            return Ok(response);
        }
        if body.path.is_none() && body.sampling_session_seq_id.is_none() {
            let session = self.models.usable(&body.model_id)?.session();
            let seen = self.sessions.live(session)?.samplers();
            body.sampling_session_seq_id = Some(seen.next_free());
        }
        body.validate().map_err(invalid)?;
        if body.kind == Some(SamplerSaveKind::Inflight) {
            return Err(Refusal::field(
                "kind",
                "expected snapshot, the one kind of this server, got inflight",
            ));
        }
        let Some(name) = &body.path else {
            let notes = body.user_metadata.as_ref();
            let unread = [
                ("ttl_seconds", body.ttl_seconds.is_some()),
                (
                    "user_metadata",
                    notes.is_some_and(|notes| !notes.is_empty()),
                ),
            ];
            if let Some((field, _)) = unread.into_iter().find(|(_, is_given)| *is_given) {
                let reason =
                    "expected nothing without a path: weights without a name are kept in memory";
                return Err(Refusal::field(field, reason));
            }
            return self.snapshot(at, &body, digest);
        };
        let save = Named {
            model: &body.model_id,
            number: body.seq_id,
            kind: CheckpointKind::Sampler,
            name,
            overwrite: Overwrite::Refuse,
            ttl_seconds: body.ttl_seconds,
            user_metadata: body.user_metadata.clone(),
        };
        self.save(at, save, digest)
    }

    /// Returns a checkpoint name that is not in use, for a save request without a name.
    fn free_name(&self, model: &str, kind: CheckpointKind) -> String {
        let is_free = |name: &String| {
            let path = TinkerPath::new(model, kind, name);
            path.is_ok_and(|path| !self.checkpoints.is_in_use(&path))
        };
        let mut names = (1u64..).map(|number| format!("checkpoint-{number:06}"));
        names.find(is_free).unwrap_or_default()
    }

    fn save(
        &mut self,
        at: Stamp,
        save: Named<'_>,
        digest: Digest,
    ) -> Result<LazyResponse, Refusal> {
        let path = TinkerPath::new(save.model, save.kind, save.name).map_err(invalid)?;
        if self.checkpoints.is_in_use(&path) && save.overwrite == Overwrite::Refuse {
            // This is a failed operation instead of a refusal, because clients retry a 409 for minutes, and its seq_id would stay
            // unused.
            let error = self.config.dialect.name_in_use(&path)?;
            let numbered = (save.model, save.number);
            return Ok(self.accept_failed(at, numbered, digest, error));
        }
        let model = self.models.usable(save.model)?;
        let saved_at = CheckpointRecord::seconds(at.wall);
        let record = CheckpointRecord {
            path: path.clone(),
            base_model: model.base().name.clone(),
            base_fingerprint: model.base().fingerprint.clone(),
            lora: model.lora().clone(),
            saved_at,
            expires_at: save
                .ttl_seconds
                .map(|ttl| saved_at + Duration::from_secs(ttl).as_secs_f64()),
            size_bytes: 0,
            user_metadata: save.user_metadata,
            run_metadata: self
                .records
                .runs
                .get(save.model)
                .and_then(|run| run.user_metadata.clone()),
            owner: self
                .records
                .owner_of_model(save.model)
                .and_then(CheckpointRecord::stored_owner),
            public: false,
            project_id: None,
        };
        self.checkpoints.begin_save(&path)?;
        let work = Work::Save {
            model: save.model.to_owned(),
            record: record.clone(),
            overwrite: save.overwrite,
        };
        let goal = Goal::Save(Box::new(record));
        Ok(self.accept(at, save.model, save.number, digest, goal, work))
    }

    /// Accepts a request to copy the current weights of a model into memory for one sampler. The copy is an operation in the queue
    /// of the model.
    fn snapshot(
        &mut self,
        at: Stamp,
        body: &SaveWeightsForSampler,
        digest: Digest,
    ) -> Result<LazyResponse, Refusal> {
        let model = self.models.usable(&body.model_id)?;
        let (session, base) = (model.session().to_owned(), Arc::clone(model.base()));
        let number = body.sampling_session_seq_id.unwrap_or(0);
        let entry = self.sessions.live_mut(&session)?;
        // Repeats of a save were handled above, so a number in use belongs to another request.
        entry
            .samplers()
            .check_free("sampling_session_seq_id", number)?;
        entry.use_sampler_number(number, digest);
        let id = sampler_id(&session, number);
        let work = Work::Snapshot {
            model: body.model_id.clone(),
            sampler: id.clone(),
        };
        let sampler = Sampler::new(session, number, base, SamplerWeights::Snapshot(id.clone()));
        let goal = Goal::Snapshot(Box::new(sampler), id);
        Ok(self.accept(at, &body.model_id, body.seq_id, digest, goal, work))
    }
}

/// Converts a failed check of `tinkers-wire` to a refusal. The check calls the checkpoint name `name`, but the field of the request
/// body is `path`, so the refusal names `path`.
fn invalid(error: InvalidInput) -> Refusal {
    match error.field() {
        "name" => Refusal::field("path", format!("expected {}", error.expected())),
        _ => Refusal::invalid("", &error),
    }
}
