//! Models: creation, description, and the way of every numbered request into a model's order.

use std::collections::BTreeMap;
use std::sync::Arc;

use tinkers_wire::{CreateModel, LoraConfig, ModelData, ModelInfo, ModelRef, OptimizerConfig};

use super::lane::Lane;
use super::operation::{Origin, State};
use super::{Goal, OperationId, Protocol, Stamp};
use crate::engine::{BaseModel, CheckpointRecord, Job, Work};
use crate::http::Answer;
use crate::read::{Digest, Refusal};

/// A model, also after it was unloaded: its run stays in the listings.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) session: String,
    pub(super) base: Arc<BaseModel>,
    pub(super) lora: LoraConfig,
    pub(super) user_metadata: Option<BTreeMap<String, String>>,
    pub(super) lane: Lane,
    /// Why it takes no more requests.
    pub(super) retired: Option<String>,
    /// To be unloaded as soon as its running operation has ended.
    pub(super) unload: bool,
    /// The operation that unloads it, once that was asked for.
    pub(super) unloading: Option<OperationId>,
    /// Samplers of its weights that are held in memory, the least recently used first.
    pub(super) snapshots: Vec<String>,
    /// When it was last asked for something, in seconds since the Unix epoch.
    pub(super) last_request: f64,
}

impl Protocol {
    /// `POST /create_model`.
    pub(super) fn create_model(
        &mut self,
        at: Stamp,
        body: CreateModel,
        digest: Digest,
    ) -> Result<Answer, Refusal> {
        let seen = &self.live_session(&body.session_id)?.models;
        let number = body.model_seq_id.unwrap_or_else(|| next_free(seen));
        if let Some(known) = known(seen, "model_seq_id", number, digest)? {
            return Ok(self.promise(known));
        }
        let base = self.base(&body.base_model)?;
        check_lora(&base, &body.lora_config)?;
        check_optimizer(body.optimizer_config.as_ref())?;
        let model = model_id(&body.session_id, number);
        let work = Work::CreateModel {
            model: model.clone(),
            base_model: base.name.clone(),
            lora: body.lora_config.clone(),
        };
        let entry = Model {
            session: body.session_id.clone(),
            base,
            lora: body.lora_config,
            user_metadata: body.user_metadata,
            lane: Lane::new(self.config.dialect.order),
            retired: None,
            unload: false,
            unloading: None,
            snapshots: Vec::new(),
            last_request: CheckpointRecord::seconds(at.wall),
        };
        let place = (body.session_id, number);
        Ok(self.add_model(model, entry, place, digest, Goal::CreateModel, work))
    }

    /// Enters a model; its creation is the first of its order.
    pub(super) fn add_model(
        &mut self,
        id: String,
        model: Model,
        (session, number): (String, u64),
        digest: Digest,
        goal: Goal,
        work: Work,
    ) -> Answer {
        let operation = self.operation(goal, Origin::Model(id.clone(), 0), work);
        if let Some(session) = self.sessions.get_mut(&session) {
            session.models.insert(number, (digest, operation));
            session.model_ids.push(id.clone());
        }
        self.models.insert(id.clone(), model);
        self.enter(&id, 0, digest, operation);
        self.promise(operation)
    }

    /// `POST /get_info`.
    pub(super) fn model_info(&self, body: &ModelRef) -> Result<Answer, Refusal> {
        let model = self.usable(&body.model_id)?;
        let mut info = ModelInfo::new(body.model_id.clone());
        info.model_data = ModelData {
            arch: Some(model.base.arch.clone()),
            model_name: Some(model.base.name.clone()),
            base_model: None,
            tokenizer_id: model.base.tokenizer_id.clone(),
        };
        info.optimizer_config = Some(adamw());
        info.is_lora = Some(true);
        info.lora_rank = Some(model.lora.rank);
        info.model_name = Some(model.base.name.clone());
        Ok(Answer::ok(&info))
    }

    /// A model that takes requests.
    pub(super) fn usable(&self, id: &str) -> Result<&Model, Refusal> {
        let model = self.models.get(id).ok_or_else(|| unknown(id))?;
        match &model.retired {
            None => Ok(model),
            Some(reason) => Err(Refusal::gone(reason.clone())),
        }
    }

    /// The answer to a request that was accepted before under the same number, else room for it in the model's order.
    pub(super) fn repeated(
        &mut self,
        at: Stamp,
        id: &str,
        number: u64,
        digest: Digest,
    ) -> Result<Option<Answer>, Refusal> {
        let most = self.config.queue_limit();
        self.usable(id)?;
        let Some(model) = self.models.get_mut(id) else {
            return Err(unknown(id));
        };
        model.last_request = CheckpointRecord::seconds(at.wall);
        let repeated = model.lane.repeated(number, digest);
        if let Some(operation) = repeated.map_err(|refusal| self.config.dialect.reused(refusal))? {
            return Ok(Some(self.promise(operation)));
        }
        if !model.lane.has_room(number, digest.bytes(), most) {
            return Err(Refusal::busy(format!(
                "too many requests of {id} are waiting already; come back later"
            )));
        }
        Ok(None)
    }

    /// Accepts a request into a model's order.
    pub(super) fn accept(
        &mut self,
        at: Stamp,
        model: &str,
        number: u64,
        digest: Digest,
        goal: Goal,
        work: Work,
    ) -> Answer {
        let operation = self.operation(goal, Origin::Model(model.to_owned(), number), work);
        self.enter(model, number, digest, operation);
        self.watch_gap(at, model);
        self.promise(operation)
    }

    pub(super) fn enter(&mut self, id: &str, number: u64, digest: Digest, operation: OperationId) {
        if let Some(model) = self.models.get_mut(id) {
            model.lane.admit(number, digest, operation);
        }
        self.advance(id);
    }

    /// Starts the next operation of a model when none runs.
    pub(super) fn advance(&mut self, id: &str) {
        let Some(operation) = self.models.get_mut(id).and_then(|model| model.lane.start()) else {
            return;
        };
        self.start(operation);
    }

    /// Hands an operation's work to the engine.
    pub(super) fn start(&mut self, id: OperationId) {
        let job = self.ids.next_job();
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        let State::Queued(work) = std::mem::replace(&mut operation.state, State::Running(job))
        else {
            return;
        };
        self.jobs.insert(job, super::Role::Operation(id));
        self.start_job(Job {
            id: job,
            work: *work,
        });
    }

    /// A base model by name.
    pub(super) fn base(&self, name: &str) -> Result<Arc<BaseModel>, Refusal> {
        let found = self.bases.iter().find(|base| base.is_called(name));
        found.map(Arc::clone).ok_or_else(|| {
            let known: Vec<&str> = self.bases.iter().map(|base| base.name.as_str()).collect();
            Refusal::not_found(format!(
                "no base_model {name:?} on this server; it has {}",
                known.join(", ")
            ))
        })
    }

    /// The base model of a checkpoint: by its fingerprint, or by its name where one of the two has none.
    pub(super) fn base_of(&self, record: &CheckpointRecord) -> Result<Arc<BaseModel>, Refusal> {
        let print = record.base_fingerprint.as_ref();
        let same = self
            .bases
            .iter()
            .find(|base| print.is_some() && base.fingerprint.as_ref() == print);
        if let Some(same) = same {
            return Ok(Arc::clone(same));
        }
        let base = match (self.base(&record.base_model), self.bases.as_slice()) {
            // Under a name that is not here, the fingerprints say more.
            (Err(_), [only]) if only.mismatch(record).is_some() => Arc::clone(only),
            (base, _) => base?,
        };
        match base.mismatch(record) {
            Some(reason) => Err(Refusal::field("path", reason)),
            None => Ok(base),
        }
    }

    /// A model made from a checkpoint, not yet entered.
    pub(super) fn model_of(
        &self,
        at: Stamp,
        session: &str,
        record: &CheckpointRecord,
        user_metadata: Option<BTreeMap<String, String>>,
    ) -> Result<Model, Refusal> {
        Ok(Model {
            session: session.to_owned(),
            base: self.base_of(record)?,
            lora: record.lora.clone(),
            user_metadata,
            lane: Lane::new(self.config.dialect.order),
            retired: None,
            unload: false,
            unloading: None,
            snapshots: Vec::new(),
            last_request: CheckpointRecord::seconds(at.wall),
        })
    }
}

/// The operation that a number of a session already stands for, if it is the same.
pub(super) fn known(
    seen: &BTreeMap<u64, (Digest, OperationId)>,
    what: &str,
    number: u64,
    digest: Digest,
) -> Result<Option<OperationId>, Refusal> {
    match seen.get(&number) {
        None => Ok(None),
        Some((same, operation)) if *same == digest => Ok(Some(*operation)),
        Some(_) => Err(Refusal::conflict(format!(
            "{what} {number} was used by another request of this session"
        ))),
    }
}

/// The number of a creation that comes without one.
pub(super) fn next_free<T>(seen: &BTreeMap<u64, T>) -> u64 {
    let last = seen.last_key_value().map(|(last, _)| *last);
    last.map_or(0, |last| last.saturating_add(1))
}

pub(super) fn model_id(session: &str, number: u64) -> String {
    format!("{session}:train:{number}")
}

pub(super) fn unknown(id: &str) -> Refusal {
    Refusal::not_found(format!("no model {id:?} on this server; create it first"))
}

pub(super) fn adamw() -> OptimizerConfig {
    OptimizerConfig {
        family: "adamw".to_owned(),
        fields: BTreeMap::new(),
    }
}

/// AdamW is the one optimizer of an engine.
pub(super) fn check_optimizer(config: Option<&OptimizerConfig>) -> Result<(), Refusal> {
    match config {
        Some(config) if config.family != "adamw" => {
            let reason = format!(
                "expected adamw, the one optimizer of this server, got {:?}",
                config.family
            );
            Err(Refusal::field("optimizer_config.type", reason))
        }
        Some(config) => match config.fields.iter().find(|(_, value)| !value.is_null()) {
            Some((name, _)) => Err(Refusal::field(
                &format!("optimizer_config.{name}"),
                "expected nothing beside type: adamw has no fields, and a step has its own parameters",
            )),
            None => Ok(()),
        },
        None => Ok(()),
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
