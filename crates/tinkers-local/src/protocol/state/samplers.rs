//! The samplers: ids under which clients sample from weights.

use std::collections::BTreeMap;
use std::sync::Arc;

use tinkers_core::Timestamp;

use super::numbered::NumberedRequests;
use super::records::SamplerRecord;
use crate::engine::{BaseModel, SamplerWeights};
use crate::protocol::ids::OperationId;
use crate::read::{Digest, Refusal};

/// A sampler: the weights from which samples are drawn, and the samples so far. Ended samplers are not deleted, so that later
/// requests to them can be refused with a reason.
#[derive(Debug, Clone)]
pub(crate) struct Sampler {
    session: String,
    number: u64,
    base: Arc<BaseModel>,
    weights: SamplerWeights,
    /// The id of the model whose weights the sampler uses as a copy in memory. `None` if the sampler uses a base model or a
    /// checkpoint.
    model: Option<String>,
    /// The reason why the sampler has ended. `None` if it has not ended.
    ended: Option<String>,
    /// The time of the last `retrieve_futures` request, which polls for all samples of the sampler at once. `None` if there was
    /// none.
    polled: Option<Timestamp>,
    /// The operations of the samples that have a `seq_id`, by this `seq_id`.
    samples: NumberedRequests<OperationId>,
}

impl Sampler {
    /// Creates a sampler. `number` is the `sampling_session_seq_id` of the request for it.
    pub(crate) fn new(
        session: String,
        number: u64,
        base: Arc<BaseModel>,
        weights: SamplerWeights,
    ) -> Self {
        Self {
            session,
            number,
            base,
            weights,
            model: None,
            ended: None,
            polled: None,
            samples: NumberedRequests::default(),
        }
    }

    pub(crate) fn session(&self) -> &str {
        &self.session
    }

    pub(crate) fn base(&self) -> &Arc<BaseModel> {
        &self.base
    }

    pub(crate) fn weights(&self) -> &SamplerWeights {
        &self.weights
    }

    /// Returns the description of the sampler that survives it.
    pub(crate) fn record(&self) -> SamplerRecord {
        SamplerRecord {
            session: self.session.clone(),
            number: self.number,
            base_model: self.base.name.clone(),
            model_path: match &self.weights {
                SamplerWeights::Checkpoint(path) => Some(path.clone()),
                SamplerWeights::Base(_) | SamplerWeights::Snapshot(_) => None,
            },
        }
    }

    /// Returns the time of the last `retrieve_futures` request, which polls for all samples of the sampler at once.
    pub(crate) fn polled(&self) -> Option<Timestamp> {
        self.polled
    }

    /// Returns the operations of the samples that have a `seq_id`, by this `seq_id`.
    pub(crate) fn samples(&self) -> &NumberedRequests<OperationId> {
        &self.samples
    }
}

/// The samplers, by their ids.
#[derive(Debug, Default)]
pub(crate) struct Samplers(BTreeMap<String, Sampler>);

impl Samplers {
    pub(crate) fn insert(&mut self, id: String, sampler: Sampler) {
        self.0.insert(id, sampler);
    }

    /// Adds a sampler that uses a copy of the weights of `model` in memory.
    pub(crate) fn insert_snapshot(&mut self, id: String, model: &str, sampler: Sampler) {
        let model = Some(model.to_owned());
        self.0.insert(id, Sampler { model, ..sampler });
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Sampler> {
        self.0.get(id)
    }

    /// Returns the sampler with this id, even if it has ended.
    ///
    /// # Errors
    ///
    /// If the sampler is unknown.
    pub(crate) fn known(&self, id: &str) -> Result<&Sampler, Refusal> {
        self.0.get(id).ok_or_else(|| unknown(id))
    }

    /// Returns the sampler with this id, if it accepts requests.
    ///
    /// # Errors
    ///
    /// If the sampler is unknown or has ended.
    pub(crate) fn live(&self, id: &str) -> Result<&Sampler, Refusal> {
        let sampler = self.known(id)?;
        match &sampler.ended {
            None => Ok(sampler),
            Some(reason) => Err(Refusal::gone(reason.clone())),
        }
    }

    /// Returns the id of the model whose weights a sampler uses as a copy in memory. Returns `None` if the sampler uses a base
    /// model or a checkpoint, or is unknown.
    pub(crate) fn model_of(&self, id: &str) -> Option<&str> {
        self.0.get(id)?.model.as_deref()
    }

    /// Records a `retrieve_futures` request, which polls for all samples of a sampler at once.
    pub(crate) fn record_poll(&mut self, id: &str, now: Timestamp) {
        if let Some(sampler) = self.0.get_mut(id) {
            sampler.polled = Some(now);
        }
    }

    /// Records the operation of a sample of a sampler under the `seq_id` of the sample, to recognize a repeated request.
    pub(crate) fn add_sample(
        &mut self,
        id: &str,
        number: u64,
        digest: Digest,
        operation: OperationId,
    ) {
        if let Some(sampler) = self.0.get_mut(id) {
            sampler.samples.insert(number, digest, operation);
        }
    }

    /// Deletes the record of the sample with this `seq_id` from its sampler.
    pub(crate) fn forget_sample(&mut self, id: &str, number: u64) {
        if let Some(sampler) = self.0.get_mut(id) {
            sampler.samples.remove(number);
        }
    }

    /// Ends a sampler with this reason. Returns whether the engine has to drop its copy of weights in memory. Has no effect if the
    /// sampler is unknown or has already ended.
    pub(crate) fn end(&mut self, id: &str, reason: &str) -> bool {
        let Some(sampler) = self.0.get_mut(id).filter(|sampler| sampler.ended.is_none()) else {
            return false;
        };
        sampler.ended = Some(reason.to_owned());
        sampler.samples.clear();
        matches!(sampler.weights, SamplerWeights::Snapshot(_))
    }

    /// Deletes all samplers, for a simulated restart.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

pub(crate) fn unknown(id: &str) -> Refusal {
    Refusal::not_found(format!("no sampling session {id:?} on this server"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns a base model with this name and this fingerprint, for tests. It has no weights.
    pub(crate) fn base(name: &str, fingerprint: Option<&str>) -> BaseModel {
        BaseModel {
            name: name.to_owned(),
            aliases: Vec::new(),
            fingerprint: fingerprint.map(str::to_owned),
            arch: "test".to_owned(),
            max_context_length: 64,
            vocab_size: 8,
            tokenizer_id: None,
            max_lora_rank: 8,
        }
    }

    /// Returns a sampler that uses a copy of weights in memory.
    pub(crate) fn snapshot(id: &str) -> Sampler {
        let weights = SamplerWeights::Snapshot(id.to_owned());
        Sampler::new(
            "session".to_owned(),
            0,
            Arc::new(base("base", None)),
            weights,
        )
    }

    #[test]
    fn ended_sampler_refuses_requests_with_a_reason() {
        let mut samplers = Samplers::default();
        samplers.insert_snapshot("s".to_owned(), "model", snapshot("s"));
        samplers.add_sample("s", 1, Digest::of("test", b""), OperationId(1));
        assert_eq!(samplers.model_of("s"), Some("model"));
        assert!(samplers.end("s", "first"));
        assert!(!samplers.end("s", "second"));
        assert!(!samplers.end("other", "third"));
        assert_eq!(samplers.live("s").unwrap_err().status(), 410);
        let known = samplers.known("s").unwrap();
        assert!(known.samples().check_free("seq_id", 1).is_ok());
        assert_eq!(samplers.known("other").unwrap_err().status(), 404);
    }

    #[test]
    fn ending_a_sampler_drops_weights_only_if_they_are_in_memory() {
        let mut samplers = Samplers::default();
        let weights = SamplerWeights::Base("base".to_owned());
        let sampler = Sampler::new(
            "session".to_owned(),
            0,
            Arc::new(base("base", None)),
            weights,
        );
        samplers.insert("s".to_owned(), sampler);
        assert!(!samplers.end("s", "it was finished"));
    }
}
