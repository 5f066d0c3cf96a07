//! Samplers: what is sampled from, under an id.

use std::collections::BTreeMap;
use std::sync::Arc;

use tinkers_wire::{CreateSamplingSession, SamplerInfo, SamplingSessionCreated};

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
    pub(super) ended: Option<String>,
    /// Samples by their number.
    pub(super) seen: BTreeMap<u64, (Digest, OperationId)>,
}

impl Sampler {
    pub(super) fn new(session: Option<String>, base: Arc<BaseModel>, weights: Weights) -> Self {
        Self {
            session,
            base,
            weights,
            ended: None,
            seen: BTreeMap::new(),
        }
    }
}

impl Protocol {
    /// `POST /create_sampling_session`.
    pub(super) fn create_sampler(
        &mut self,
        body: &CreateSamplingSession,
        digest: Digest,
    ) -> Result<Answer, Refusal> {
        let number = body.sampling_session_seq_id;
        let id = sampler_id(&body.session_id, number);
        match self.live_session(&body.session_id)?.samplers.get(&number) {
            None => {}
            Some(same) if *same == digest => return Ok(created(id)),
            Some(_) => {
                let reason = format!(
                    "sampling_session_seq_id {number} was used by another request of this session"
                );
                return Err(Refusal::conflict(reason));
            }
        }
        let (base, weights) = match (&body.base_model, &body.model_path) {
            (Some(base), None) => (self.base(base)?, Weights::Base(base.clone())),
            (base, Some(path)) => {
                let record = self.checkpoint(path)?;
                // Both may be given, when they say the same.
                if base.as_ref().is_some_and(|base| *base != record.base_model) {
                    let reason = format!(
                        "expected {}, the base of {path}, or nothing",
                        record.base_model
                    );
                    return Err(Refusal::field("base_model", reason));
                }
                (
                    self.base(&record.base_model)?,
                    Weights::Checkpoint(record.path.clone()),
                )
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
        Ok(created(id))
    }

    /// A snapshot is there: it can be sampled from, unless its session has ended meanwhile.
    pub(super) fn keep_snapshot(&mut self, id: &str, sampler: Sampler) {
        let session = sampler.session.clone().unwrap_or_default();
        match self.live_session(&session) {
            Ok(session) => {
                session.sampler_ids.push(id.to_owned());
                self.samplers.insert(id.to_owned(), sampler);
            }
            Err(_) => self.housekeeping(Work::DropSnapshot {
                sampler: id.to_owned(),
            }),
        }
    }

    /// `GET /samplers/{id}`.
    pub(super) fn sampler_info(&self, id: &str) -> Result<Answer, Refusal> {
        let sampler = self.samplers.get(id).ok_or_else(|| unknown(id))?;
        Ok(Answer::ok(&SamplerInfo {
            sampler_id: id.to_owned(),
            base_model: sampler.base.name.clone(),
            model_path: match &sampler.weights {
                Weights::Checkpoint(path) => Some(path.to_string()),
                _ => None,
            },
        }))
    }

    /// A sampler that can be sampled from.
    pub(super) fn live_sampler(&self, id: &str) -> Result<&Sampler, Refusal> {
        let sampler = self.samplers.get(id).ok_or_else(|| unknown(id))?;
        match &sampler.ended {
            None => Ok(sampler),
            Some(reason) => Err(Refusal::gone(reason.clone())),
        }
    }
}

pub(super) fn sampler_id(session: &str, number: u64) -> String {
    format!("{session}:sample:{number}")
}

fn created(sampling_session_id: String) -> Answer {
    Answer::ok(&SamplingSessionCreated {
        sampling_session_id,
    })
}

fn unknown(id: &str) -> Refusal {
    Refusal::not_found(format!("no sampling session {id:?} on this server"))
}
