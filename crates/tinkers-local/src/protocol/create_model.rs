//! The creation and description of models.

use std::collections::BTreeMap;
use std::sync::Arc;

use tinkers_wire::{CreateModel, LoraConfig, ModelInfo, ModelRef};

use super::optimizer::{adamw, check_optimizer};
use super::state::models::Model;
use super::state::operations::{Goal, Origin};
use super::state::records::RunRecord;
use super::{Protocol, Stamp};
use crate::engine::{BaseModel, CheckpointRecord, Work};
use crate::http::LazyResponse;
use crate::read::{Digest, Refusal};

/// The properties of a model that a request asks the server to create.
pub(super) struct NewModel {
    pub(super) session: String,
    /// The `model_seq_id` of the request that creates the model. It is part of the id of the model.
    pub(super) number: u64,
    pub(super) base: Arc<BaseModel>,
    pub(super) lora: LoraConfig,
    pub(super) user_metadata: Option<BTreeMap<String, String>>,
}

impl NewModel {
    pub(super) fn id(&self) -> String {
        format!("{}:train:{}", self.session, self.number)
    }
}

impl Protocol {
    /// Handles `POST /create_model`: accepts the creation of a model, or returns the earlier response to a repeated request.
    pub(super) fn create_model(
        &mut self,
        at: Stamp,
        body: CreateModel,
        digest: Digest,
    ) -> Result<LazyResponse, Refusal> {
        let seen = self.sessions.live(&body.session_id)?.models();
        let number = body.model_seq_id.unwrap_or_else(|| seen.next_free());
        if let Some(known) = seen.known("model_seq_id", number, digest)? {
            return Ok(self.accepted(known));
        }
        let base = self.catalog.base(&body.base_model)?;
        check_lora(&base, &body.lora_config)?;
        check_optimizer(body.optimizer_config.as_ref())?;
        let new = NewModel {
            session: body.session_id,
            number,
            base,
            lora: body.lora_config,
            user_metadata: body.user_metadata,
        };
        let work = Work::CreateModel {
            model: new.id(),
            base_model: new.base.name.clone(),
            lora: new.lora.clone(),
        };
        self.add_model(at, new, digest, Goal::CreateModel, work)
    }

    /// Adds a model to its session. The first operation in the queue of the model is its creation by the engine.
    pub(super) fn add_model(
        &mut self,
        at: Stamp,
        new: NewModel,
        digest: Digest,
        goal: Goal,
        work: Work,
    ) -> Result<LazyResponse, Refusal> {
        let id = new.id();
        let session = self.sessions.live_mut(&new.session)?;
        let operation = self
            .operations
            .add(goal, Origin::Model(id.clone(), 0), work);
        session.add_model(new.number, digest, operation, id.clone());
        let run = RunRecord {
            session: new.session.clone(),
            number: new.number,
            base_model: new.base.name.clone(),
            lora: new.lora.clone(),
            user_metadata: new.user_metadata,
            last_request: CheckpointRecord::seconds(at.wall),
        };
        self.records.runs.insert(id.clone(), run);
        let model = Model::new(new.session, new.base, new.lora, self.config.dialect.order);
        self.models.insert(id.clone(), model, digest, operation);
        self.advance(&id);
        Ok(self.accepted(operation))
    }

    /// Handles `POST /get_info`, which describes a model.
    pub(super) fn model_info(&self, body: &ModelRef) -> Result<LazyResponse, Refusal> {
        let model = self.models.usable(&body.model_id)?;
        let base = model.base();
        let mut info = ModelInfo::new(body.model_id.clone());
        info.model_data.arch = Some(base.arch.clone());
        info.model_data.model_name = Some(base.name.clone());
        info.model_data.tokenizer_id = base.tokenizer_id.clone();
        info.optimizer_config = Some(adamw());
        info.is_lora = Some(true);
        info.lora_rank = Some(model.lora().rank);
        info.model_name = Some(base.name.clone());
        Ok(LazyResponse::ok(&info))
    }
}

fn check_lora(base: &BaseModel, lora: &LoraConfig) -> Result<(), Refusal> {
    lora.validate()
        .map_err(|error| Refusal::invalid("", &error))?;
    if lora.rank > base.max_lora_rank {
        let reason = format!("expected at most {}, got {}", base.max_lora_rank, lora.rank);
        return Err(Refusal::field("lora_config.rank", reason));
    }
    Ok(())
}
