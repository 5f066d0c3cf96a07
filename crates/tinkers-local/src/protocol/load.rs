//! Loading of checkpoints, into a new or an existing model.

use tinkers_wire::{CheckpointKind, LoadWeights, TinkerPath};

use super::create_model::NewModel;
use super::optimizer::check_optimizer;
use super::state::operations::Goal;
use super::{Protocol, Stamp};
use crate::engine::{CheckpointRecord, Work};
use crate::http::LazyResponse;
use crate::read::{Digest, Refusal};

impl Protocol {
    /// Handles `POST /load_weights`, which loads a checkpoint into an existing model or into a new one.
    pub(super) fn load_weights(
        &mut self,
        at: Stamp,
        body: LoadWeights,
        digest: Digest,
    ) -> Result<LazyResponse, Refusal> {
        match (&body.session_id, body.model_seq_id, &body.model_id) {
            (Some(session), number, None) => {
                let session = session.clone();
                let seen = self.sessions.live(&session)?.models();
                let number = number.unwrap_or_else(|| seen.next_free());
                self.create_from(at, body, session, number, digest)
            }
            (None, None, Some(model)) => {
                let model = model.clone();
                self.load_into(at, &body, &model, digest)
            }
            _ => Err(Refusal::field(
                "model_id",
                "expected session_id and model_seq_id for a new model, or model_id and seq_id for one that is there",
            )),
        }
    }

    fn create_from(
        &mut self,
        at: Stamp,
        body: LoadWeights,
        session: String,
        number: u64,
        digest: Digest,
    ) -> Result<LazyResponse, Refusal> {
        let seen = self.sessions.live(&session)?.models();
        if let Some(known) = seen.known("model_seq_id", number, digest)? {
            return Ok(self.accepted(known));
        }
        check_optimizer(body.optimizer_config.as_ref())?;
        let record = self.training_checkpoint(&body.path)?.clone();
        let own = self.catalog.base_of(&record)?;
        let is_own = |base: &String| own.is_called(base) || *base == record.base_model;
        if let Some(base) = body.base_model.filter(|base| !is_own(base)) {
            let reason = format!(
                "expected {}, the base of {}, got {base:?}",
                record.base_model, record.path
            );
            return Err(Refusal::field("base_model", reason));
        }
        let new = NewModel {
            session,
            number,
            base: own,
            lora: record.lora,
            user_metadata: body.user_metadata,
        };
        let work = Work::CreateFromCheckpoint {
            model: new.id(),
            path: record.path.clone(),
            optimizer: body.optimizer,
        };
        let goal = Goal::CreateFrom(record.path);
        self.add_model(at, new, digest, goal, work)
    }

    fn load_into(
        &mut self,
        at: Stamp,
        body: &LoadWeights,
        model: &str,
        digest: Digest,
    ) -> Result<LazyResponse, Refusal> {
        let number = body.seq_id.unwrap_or(0);
        if let Some(response) = self.repeated(at, model, number, digest)? {
            return Ok(response);
        }
        check_optimizer(body.optimizer_config.as_ref())?;
        let record = self.training_checkpoint(&body.path)?;
        let base = self.catalog.base_of(record)?;
        let entry = self.models.usable(model)?;
        let notes = body.user_metadata.as_ref();
        if notes.is_some_and(|notes| !notes.is_empty()) {
            let reason = "expected nothing: the model that is loaded into keeps its own";
            return Err(Refusal::field("user_metadata", reason));
        }
        if let Some(wanted) = &body.base_model
            && self.catalog.base(wanted)?.name != entry.base().name
        {
            let reason = format!(
                "expected {}, the base of the model, or nothing",
                entry.base().name
            );
            return Err(Refusal::field("base_model", reason));
        }
        if entry.base().name != base.name || !same_shape(entry.lora(), &record.lora) {
            let reason = format!(
                "expected a checkpoint of {} with rank {} and the same parts, got one of {} with rank {}",
                entry.base().name,
                entry.lora().rank,
                record.base_model,
                record.lora.rank
            );
            return Err(Refusal::field("path", reason));
        }
        let path = record.path.clone();
        let work = Work::LoadCheckpoint {
            model: model.to_owned(),
            path: path.clone(),
            optimizer: body.optimizer,
        };
        Ok(self.accept(at, model, number, digest, Goal::LoadInto(path), work))
    }

    fn training_checkpoint(&self, path: &TinkerPath) -> Result<&CheckpointRecord, Refusal> {
        if path.kind() != Some(CheckpointKind::Training) {
            let reason =
                format!("expected training weights, tinker://<run>/weights/<name>, got {path}");
            return Err(Refusal::field("path", reason));
        }
        self.checkpoints.get(path)
    }
}

/// Returns whether two adapter configurations have the same trainable parameters. Ignores the seed, because it affects only the
/// initial values. Module groups that a configuration does not mention are trained.
fn same_shape(a: &tinkers_wire::LoraConfig, b: &tinkers_wire::LoraConfig) -> bool {
    let parts = |lora: &tinkers_wire::LoraConfig| {
        [lora.train_attn, lora.train_mlp, lora.train_unembed].map(|part| part.unwrap_or(true))
    };
    a.rank == b.rank && parts(a) == parts(b)
}
