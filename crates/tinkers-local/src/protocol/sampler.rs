//! Samplers: what is sampled from, under an id.

use std::collections::BTreeMap;
use std::sync::Arc;

use tinkers_core::Moment;
use tinkers_wire::{CreateSamplingSession, SamplerInfo, SamplingSessionCreated};

use super::model::next_free;
use super::{OperationId, Protocol};
use crate::engine::{BaseModel, Weights, Work};
use crate::http::Answer;
use crate::read::{Digest, Refusal};

/// A sampler.
#[derive(Debug, Clone)]
pub(super) struct Sampler {
    pub(super) session: Option<String>,
    pub(super) base: Arc<BaseModel>,
    pub(super) weights: Weights,
    /// The model whose weights in memory it samples from.
    pub(super) model: Option<String>,
    pub(super) ended: Option<String>,
    /// When its samples were last polled for together, once they were.
    pub(super) polled: Option<Moment>,
    /// Samples by their number.
    pub(super) seen: BTreeMap<u64, (Digest, OperationId)>,
}

impl Sampler {
    pub(super) fn new(session: Option<String>, base: Arc<BaseModel>, weights: Weights) -> Self {
        Self {
            session,
            base,
            weights,
            model: None,
            ended: None,
            polled: None,
            seen: BTreeMap::new(),
        }
    }
}

impl Protocol {
    /// `POST /create_sampling_session`.
    pub(super) fn create_sampler(
        &mut self,
        body: CreateSamplingSession,
        digest: Digest,
    ) -> Result<Answer, Refusal> {
        let seen = &self.live_session(&body.session_id)?.samplers;
        let number = body
            .sampling_session_seq_id
            .unwrap_or_else(|| next_free(seen));
        let id = sampler_id(&body.session_id, number);
        match seen.get(&number) {
            None => {}
            Some(same) if *same == digest => return Ok(self.sampler_created(id)),
            Some(_) => {
                let reason = format!(
                    "sampling_session_seq_id {number} was used by another request of this session"
                );
                return Err(Refusal::conflict(reason));
            }
        }
        let (base, weights) = match (&body.base_model, &body.model_path) {
            (Some(base), None) => {
                let base = self.base(base)?;
                let weights = Weights::Base(base.name.clone());
                (base, weights)
            }
            (base, Some(path)) => {
                let record = self.checkpoint(path)?;
                let own = self.base_of(record)?;
                // Both may be given, when they say the same.
                let is_own = |base: &String| own.is_called(base) || *base == record.base_model;
                if base.as_ref().is_some_and(|base| !is_own(base)) {
                    let reason = format!(
                        "expected {}, the base of {path}, or nothing",
                        record.base_model
                    );
                    return Err(Refusal::field("base_model", reason));
                }
                (own, Weights::Checkpoint(record.path.clone()))
            }
            (None, None) => {
                return Err(Refusal::field(
                    "base_model",
                    "expected base_model or model_path",
                ));
            }
        };
        let session = self.live_session(&body.session_id)?;
        session.samplers.insert(number, digest);
        session.sampler_ids.push(id.clone());
        let sampler = Sampler::new(Some(body.session_id.clone()), base, weights);
        self.samplers.insert(id.clone(), sampler);
        Ok(self.sampler_created(id))
    }

    fn sampler_created(&self, sampling_session_id: String) -> Answer {
        self.config.dialect.created(&SamplingSessionCreated {
            sampling_session_id,
        })
    }

    /// A snapshot is there: it can be sampled from, unless its session has ended meanwhile.
    pub(super) fn keep_snapshot(&mut self, model: &str, id: &str, mut sampler: Sampler) {
        let session = sampler.session.clone().unwrap_or_default();
        let Ok(session) = self.live_session(&session) else {
            return self.drop_snapshot(id);
        };
        session.sampler_ids.push(id.to_owned());
        sampler.model = Some(model.to_owned());
        self.samplers.insert(id.to_owned(), sampler);
        let most = self.config.max_snapshots;
        let Some(entry) = self.models.get_mut(model) else {
            return;
        };
        entry.snapshots.push(id.to_owned());
        let over = entry.snapshots.len().saturating_sub(most);
        for unused in entry.snapshots.drain(..over).collect::<Vec<_>>() {
            let reason = format!(
                "sampling session {unused} has ended: a model keeps its {most} unnamed weights that were used last; save under a name what is to stay"
            );
            self.end_sampler(&unused, &reason);
        }
    }

    /// A sampler is being used: of its model's snapshots it is the last to go.
    pub(super) fn used(&mut self, id: &str) {
        let model = self
            .samplers
            .get(id)
            .and_then(|sampler| sampler.model.as_ref());
        let Some(model) = model.and_then(|model| self.models.get_mut(model)) else {
            return;
        };
        if let Some(at) = model.snapshots.iter().position(|other| other == id) {
            let id = model.snapshots.remove(at);
            model.snapshots.push(id);
        }
    }

    /// Takes a sampler out of service for a reason that its users are told.
    pub(super) fn end_sampler(&mut self, id: &str, reason: &str) {
        let Some(sampler) = self.samplers.get_mut(id) else {
            return;
        };
        if sampler.ended.is_some() {
            return;
        }
        sampler.ended = Some(reason.to_owned());
        sampler.seen.clear();
        if matches!(sampler.weights, Weights::Snapshot(_)) {
            self.drop_snapshot(id);
        }
    }

    fn drop_snapshot(&mut self, id: &str) {
        self.housekeeping(Work::DropSnapshot {
            sampler: id.to_owned(),
        });
    }

    /// `GET /samplers/{id}`.
    pub(super) fn sampler_info(&self, id: &str) -> Result<Answer, Refusal> {
        let sampler = self.known_sampler(id)?;
        Ok(Answer::ok(&SamplerInfo {
            sampler_id: id.to_owned(),
            base_model: sampler.base.name.clone(),
            model_path: match &sampler.weights {
                Weights::Checkpoint(path) => Some(path.to_string()),
                _ => None,
            },
        }))
    }

    /// A sampler, also one that has ended.
    pub(super) fn known_sampler(&self, id: &str) -> Result<&Sampler, Refusal> {
        self.samplers.get(id).ok_or_else(|| unknown(id))
    }

    /// A sampler that can be sampled from.
    pub(super) fn live_sampler(&self, id: &str) -> Result<&Sampler, Refusal> {
        let sampler = self.known_sampler(id)?;
        match &sampler.ended {
            None => Ok(sampler),
            Some(reason) => Err(Refusal::gone(reason.clone())),
        }
    }
}

pub(super) fn sampler_id(session: &str, number: u64) -> String {
    format!("{session}:sample:{number}")
}

fn unknown(id: &str) -> Refusal {
    Refusal::not_found(format!("no sampling session {id:?} on this server"))
}
