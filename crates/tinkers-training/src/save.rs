//! Saves of weights: their builders and requests.

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::time::Duration;

use tinkers_core::{BoxFuture, Call, Error, Result, RouteClass, ServerProfile, SessionContext};
use tinkers_futures::{ApiFuture, Operation, start};
use tinkers_wire::{
    self as wire, CheckpointKind, RequestKind, SaveWeights, SavedSamplerWeights, SavedWeights,
    routes, to_json,
};

use crate::model_calls::ModelCalls;
use crate::requests::{OnLostReply, Request, SavedName};

/// A builder that saves the weights and the optimizer state of a model, returned by
/// [`TrainingClient::save_state`](crate::TrainingClient::save_state). Await the builder, or start the save with [`SaveState::send`]. Until then
/// nothing is queued or sent.
///
/// ```no_run
/// # async fn save(training: tinkers_training::TrainingClient) -> tinkers_core::Result<()> {
/// use std::time::Duration;
///
/// let week = Duration::from_secs(7 * 24 * 60 * 60);
/// let saved = training.save_state("step-10").ttl(week).await?;
/// println!("resume from {}", saved.path);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is saved before the save is awaited or `send` is called"]
pub struct SaveState {
    calls: ModelCalls,
    body: SaveWeights,
}

impl SaveState {
    pub(crate) fn new(calls: ModelCalls, name: String) -> Self {
        let body = SaveWeights {
            model_id: calls.model_id().to_string(),
            // Replaced when the request is sent.
            seq_id: 0,
            path: Some(name),
            ttl_seconds: None,
            overwrite: None,
            user_metadata: None,
        };
        Self { calls, body }
    }

    /// Sets the time after which the server deletes the checkpoint: from one hour to ten years, rounded down to seconds. By default a
    /// checkpoint does not expire.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.body.ttl_seconds = Some(ttl.as_secs());
        self
    }

    /// Replaces an existing checkpoint of the same name, including its metadata. By default, the save fails with `Conflict` if such a
    /// checkpoint exists.
    pub fn overwrite(mut self) -> Self {
        self.body.overwrite = Some(true);
        self
    }

    /// Attaches metadata to the checkpoint: strings that the program chooses.
    pub fn user_metadata(mut self, metadata: BTreeMap<String, String>) -> Self {
        self.body.user_metadata = Some(metadata);
        self
    }

    /// Queues the save behind all earlier calls of the model, and returns a future that waits for its result. Dropping the future does not
    /// cancel the save.
    pub fn send(self) -> ApiFuture<SavedWeights> {
        let Self { calls, body } = self;
        let operation = calls.operation("TrainingClient.save_state");
        let request = body.validate().map(|()| SaveStateRequest(body));
        let request = request.map_err(Error::from);
        calls.single(operation, RequestKind::SaveWeights, request, |path| {
            Ok(SavedWeights::new(path))
        })
    }
}

impl IntoFuture for SaveState {
    type Output = Result<SavedWeights>;
    type IntoFuture = ApiFuture<SavedWeights>;

    fn into_future(self) -> Self::IntoFuture {
        self.send()
    }
}

/// A builder that saves the weights of a model for sampling, returned by
/// [`TrainingClient::save_weights_for_sampler`](crate::TrainingClient::save_weights_for_sampler). Await the builder, or start the save with
/// [`SaveForSampler::send`]. Until then nothing is queued or sent.
///
/// ```no_run
/// # async fn save(training: tinkers_training::TrainingClient) -> tinkers_core::Result<()> {
/// use std::time::Duration;
///
/// let hour = Duration::from_secs(60 * 60);
/// let saved = training.save_weights_for_sampler("evaluation").ttl(hour).await?;
/// println!("sample from {:?}", saved.path);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is saved before the save is awaited or `send` is called"]
pub struct SaveForSampler {
    calls: ModelCalls,
    body: wire::SaveWeightsForSampler,
}

impl SaveForSampler {
    pub(crate) fn new(calls: ModelCalls, name: Option<String>) -> Self {
        let body = wire::SaveWeightsForSampler {
            model_id: calls.model_id().to_string(),
            // Both numbers are assigned after the validation, so that an invalid save takes no number.
            seq_id: 0,
            sampling_session_seq_id: name.is_none().then_some(0),
            path: name,
            // `snapshot` is the default, and older servers do not know the field.
            kind: None,
            ttl_seconds: None,
            user_metadata: None,
        };
        Self { calls, body }
    }

    /// Sets the time after which the server deletes the saved weights: from one hour to ten years, rounded down to seconds. By default saved
    /// weights do not expire.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.body.ttl_seconds = Some(ttl.as_secs());
        self
    }

    /// Attaches metadata to the saved weights: strings that the program chooses.
    pub fn user_metadata(mut self, metadata: BTreeMap<String, String>) -> Self {
        self.body.user_metadata = Some(metadata);
        self
    }

    /// Queues the save behind all earlier calls of the model, and returns a future that waits for its result. Dropping the future does not
    /// cancel the save.
    pub fn send(self) -> ApiFuture<SavedSamplerWeights> {
        let operation = self
            .calls
            .operation("TrainingClient.save_weights_for_sampler");
        let saved = self.queue(&operation);
        start(operation, saved)
    }

    /// Queues the save as one step of `operation`, such as the creation of a sampling client. The progress of the save is reported as progress
    /// of `operation`. The returned future waits for the result of the save.
    pub(crate) fn queue(
        self,
        operation: &Operation,
    ) -> BoxFuture<'static, Result<SavedSamplerWeights>> {
        let Self { calls, body } = self;
        let request = request_for_sampler(body, || calls.session().next_sampling_seq());
        let kind = RequestKind::SaveWeightsForSampler;
        calls.queue_one(operation, kind, request, |path| {
            Ok(SavedSamplerWeights::named(path))
        })
    }
}

/// Validates a save of weights for sampling, and builds its request. An unnamed save receives a sampling sequence number (the number of the
/// sampler that it creates). The number is assigned only once, since each retry must have the same one.
fn request_for_sampler(
    mut body: wire::SaveWeightsForSampler,
    next_sampling_seq: impl FnOnce() -> u64,
) -> Result<SaveForSamplerRequest> {
    body.validate()?;
    if body.path.is_none() {
        body.sampling_session_seq_id = Some(next_sampling_seq());
    }
    Ok(SaveForSamplerRequest(body))
}

impl IntoFuture for SaveForSampler {
    type Output = Result<SavedSamplerWeights>;
    type IntoFuture = ApiFuture<SavedSamplerWeights>;

    fn into_future(self) -> Self::IntoFuture {
        self.send()
    }
}

#[derive(Debug)]
pub(crate) struct SaveStateRequest(SaveWeights);

impl Request for SaveStateRequest {
    fn call(&self, seq_id: u64, _: &ServerProfile) -> Result<Call> {
        let body = SaveWeights {
            seq_id,
            ..self.0.clone()
        };
        Ok(Call::post(
            routes::SAVE_WEIGHTS,
            to_json(&body),
            RouteClass::Train,
        ))
    }

    fn on_lost_reply(&self) -> OnLostReply {
        match self.0.overwrite {
            Some(true) => OnLostReply::Repeat,
            _ => OnLostReply::LookUp,
        }
    }

    fn changes_model(&self) -> bool {
        false
    }

    fn is_save(&self) -> bool {
        true
    }

    fn saved_name(&self) -> Option<SavedName> {
        Some(SavedName {
            kind: CheckpointKind::Training,
            name: self.0.path.clone()?,
        })
    }
}

#[derive(Debug)]
pub(crate) struct SaveForSamplerRequest(wire::SaveWeightsForSampler);

impl Request for SaveForSamplerRequest {
    fn call(&self, seq_id: u64, _: &ServerProfile) -> Result<Call> {
        let body = wire::SaveWeightsForSampler {
            seq_id,
            ..self.0.clone()
        };
        Ok(Call::post(
            routes::SAVE_WEIGHTS_FOR_SAMPLER,
            to_json(&body),
            RouteClass::Train,
        ))
    }

    fn on_lost_reply(&self) -> OnLostReply {
        match self.0.path {
            None => OnLostReply::Repeat,
            Some(_) => OnLostReply::LookUp,
        }
    }

    fn changes_model(&self) -> bool {
        false
    }

    fn is_save(&self) -> bool {
        true
    }

    fn saved_name(&self) -> Option<SavedName> {
        Some(SavedName {
            kind: CheckpointKind::Sampler,
            name: self.0.path.clone()?,
        })
    }

    fn with_new_sampling_number(&self, session: &dyn SessionContext) -> Option<Box<dyn Request>> {
        let body = self.0.clone();
        body.sampling_session_seq_id?;
        Some(Box::new(Self(wire::SaveWeightsForSampler {
            sampling_session_seq_id: Some(session.next_sampling_seq()),
            ..body
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unnamed() -> wire::SaveWeightsForSampler {
        wire::SaveWeightsForSampler {
            model_id: "m".to_owned(),
            seq_id: 0,
            sampling_session_seq_id: Some(0),
            path: None,
            kind: None,
            ttl_seconds: None,
            user_metadata: None,
        }
    }

    #[test]
    fn invalid_save_request_uses_no_sampling_sequence_number() {
        let short = wire::SaveWeightsForSampler {
            ttl_seconds: Some(1),
            ..unnamed()
        };
        let refused = request_for_sampler(short, || panic!("no number for a refused save"));
        assert_eq!(refused.unwrap_err().field(), Some("ttl_seconds"));
    }

    #[test]
    fn unnamed_save_has_the_same_sampling_sequence_number_on_each_retry() {
        let request = request_for_sampler(unnamed(), || 7).unwrap();
        let profile = ServerProfile::default();
        assert_eq!(
            request.call(2, &profile).unwrap().body,
            request.call(2, &profile).unwrap().body
        );
        assert_eq!(request.saved_name(), None);
        let body = request.call(2, &profile).unwrap().body;
        assert_eq!(
            &body[..],
            br#"{"model_id":"m","seq_id":2,"sampling_session_seq_id":7}"#
        );
    }
}
