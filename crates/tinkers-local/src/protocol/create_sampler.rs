//! The creation, description and end of samplers.

use tinkers_wire::{CreateSamplingSession, SamplerInfo, SamplingSessionCreated};

use super::Protocol;
use super::state::samplers::{self, Sampler};
use crate::engine::{SamplerWeights, Work};
use crate::http::LazyResponse;
use crate::read::{Digest, Refusal};

impl Protocol {
    /// Handles `POST /create_sampling_session`, which creates a sampler for a base model or a checkpoint.
    pub(super) fn create_sampler(
        &mut self,
        body: CreateSamplingSession,
        digest: Digest,
    ) -> Result<LazyResponse, Refusal> {
        let seen = self.sessions.live(&body.session_id)?.samplers();
        let number = body.sampling_session_seq_id;
        let number = number.unwrap_or_else(|| seen.next_free());
        let id = sampler_id(&body.session_id, number);
        let known = seen.known("sampling_session_seq_id", number, digest)?;
        if known.is_some() {
            return Ok(self.sampler_created(id));
        }
        let (base, weights) = match (&body.base_model, &body.model_path) {
            (Some(base), None) => {
                let base = self.catalog.base(base)?;
                let weights = SamplerWeights::Base(base.name.clone());
                (base, weights)
            }
            (_, Some(path)) if path.kind().is_none() => {
                let reason = format!("expected tinker://<run>/sampler_weights/<name>, got {path}");
                return Err(Refusal::field("model_path", reason));
            }
            (base, Some(path)) => {
                let record = self.checkpoints.get(path)?;
                let own = self.catalog.base_of(record)?;
                // A request may name both the checkpoint and its base model if they agree.
                let is_own = |base: &String| own.is_called(base) || *base == record.base_model;
                if base.as_ref().is_some_and(|base| !is_own(base)) {
                    let reason = format!(
                        "expected {}, the base of {path}, or nothing",
                        record.base_model
                    );
                    return Err(Refusal::field("base_model", reason));
                }
                (own, SamplerWeights::Checkpoint(record.path.clone()))
            }
            (None, None) => {
                return Err(Refusal::field(
                    "base_model",
                    "expected base_model or model_path",
                ));
            }
        };
        let session = self.sessions.live_mut(&body.session_id)?;
        session.use_sampler_number(number, digest);
        session.add_sampler(id.clone());
        let sampler = Sampler::new(body.session_id, number, base, weights);
        self.records.samplers.insert(id.clone(), sampler.record());
        self.samplers.insert(id.clone(), sampler);
        Ok(self.sampler_created(id))
    }

    fn sampler_created(&self, sampling_session_id: String) -> LazyResponse {
        self.config.dialect.created(&SamplingSessionCreated {
            sampling_session_id,
        })
    }

    /// Adds the sampler for a copy of weights that the engine has just made in memory. Drops the copy if the session has ended
    /// meanwhile.
    pub(super) fn add_snapshot(&mut self, model: &str, id: &str, sampler: Sampler) {
        let Ok(session) = self.sessions.live_mut(sampler.session()) else {
            return self.drop_snapshot(id);
        };
        session.add_sampler(id.to_owned());
        self.records
            .samplers
            .insert(id.to_owned(), sampler.record());
        self.samplers.insert_snapshot(id.to_owned(), model, sampler);
        let most = self.config.max_snapshots;
        for unused in self.models.add_snapshot(model, id.to_owned(), most) {
            let reason = format!(
                "sampling session {unused} has ended: a model keeps the {most} most recently used unnamed weights; save under a name what is to stay"
            );
            self.end_sampler(&unused, &reason);
        }
    }

    /// Records the use of a sampler. If it uses a copy of weights in memory, the copy becomes the most recently used copy of its
    /// model and is dropped last.
    pub(super) fn touch_sampler(&mut self, id: &str) {
        if let Some(model) = self.samplers.model_of(id) {
            self.models.touch_snapshot(model, id);
        }
    }

    /// Ends a sampler. Later requests to the sampler are refused with `reason`.
    pub(super) fn end_sampler(&mut self, id: &str, reason: &str) {
        if self.samplers.end(id, reason) {
            self.drop_snapshot(id);
        }
    }

    fn drop_snapshot(&mut self, id: &str) {
        self.clean_up(Work::DropSnapshot {
            sampler: id.to_owned(),
        });
    }

    /// Handles `GET /samplers/{id}`, which describes a sampler, even if it has ended.
    pub(super) fn sampler_info(&self, id: &str) -> Result<LazyResponse, Refusal> {
        let sampler = self.records.samplers.get(id);
        let sampler = sampler.ok_or_else(|| samplers::unknown(id))?;
        let mut info = SamplerInfo::default();
        info.sampler_id = id.to_owned();
        info.base_model = sampler.base_model.clone();
        info.model_path = sampler.model_path.as_ref().map(ToString::to_string);
        Ok(LazyResponse::ok(&info))
    }
}

pub(super) fn sampler_id(session: &str, number: u64) -> String {
    format!("{session}:sample:{number}")
}
