//! Options of saves, and their requests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tinkers_core::{Call, Result, RouteClass, ServerProfile, SessionContext};
use tinkers_wire::{CheckpointKind, SaveWeights, SaveWeightsForSampler, routes, to_json};

use crate::requests::{OnLostReply, Request, SavedName};

/// Options of [`TrainingClient::save_state`](crate::TrainingClient::save_state). A name converts into them: `client.save_state("step-10")`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "options save nothing by themselves"]
pub struct SaveState {
    name: String,
    ttl: Option<Duration>,
    overwrite: bool,
    metadata: Option<BTreeMap<String, String>>,
}

impl SaveState {
    /// Saves under this name: 1 to 255 letters, digits, `-`, `_` and `.`.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ttl: None,
            overwrite: false,
            metadata: None,
        }
    }

    /// Has the server delete it after `ttl`, from an hour to ten years; without it the checkpoint has no expiry.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Replaces a checkpoint of the same name, including its metadata.
    pub fn overwrite(mut self) -> Self {
        self.overwrite = true;
        self
    }

    /// Attaches metadata.
    pub fn user_metadata(mut self, metadata: BTreeMap<String, String>) -> Self {
        self.metadata = Some(metadata);
        self
    }

    pub(crate) fn into_request(self, model_id: &Arc<str>) -> Result<SaveStateRequest> {
        let body = SaveWeights {
            model_id: model_id.to_string(),
            seq_id: 0,
            path: Some(self.name),
            ttl_seconds: self.ttl.map(|ttl| ttl.as_secs()),
            overwrite: self.overwrite.then_some(true),
            user_metadata: self.metadata,
        };
        body.validate()?;
        Ok(SaveStateRequest(body))
    }
}

impl<T: Into<String>> From<T> for SaveState {
    fn from(name: T) -> Self {
        Self::named(name)
    }
}

/// Options of [`TrainingClient::save_weights_for_sampler`](crate::TrainingClient::save_weights_for_sampler).
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "options save nothing by themselves"]
pub struct SaveForSampler {
    name: Option<String>,
    ttl: Option<Duration>,
    metadata: Option<BTreeMap<String, String>>,
}

impl SaveForSampler {
    /// Saves under this name.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: Some(name.into()),
            ttl: None,
            metadata: None,
        }
    }

    /// Saves for one sampling client only, without a name.
    pub fn unnamed() -> Self {
        Self {
            name: None,
            ttl: None,
            metadata: None,
        }
    }

    /// Has the server delete it after `ttl`, from an hour to ten years. Named weights only.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Attaches metadata. Named weights only.
    pub fn user_metadata(mut self, metadata: BTreeMap<String, String>) -> Self {
        self.metadata = Some(metadata);
        self
    }

    /// Makes the request. `next_sampling_seq` is called once, for unnamed weights only: every retry has the same number.
    pub(crate) fn into_request(
        self,
        model_id: &Arc<str>,
        next_sampling_seq: impl FnOnce() -> u64,
    ) -> Result<SaveForSamplerRequest> {
        let mut body = SaveWeightsForSampler {
            model_id: model_id.to_string(),
            seq_id: 0,
            // A placeholder until the rest is validated, so that an invalid call uses up no number.
            sampling_session_seq_id: self.name.is_none().then_some(0),
            path: self.name,
            // `snapshot` is the default, and older servers do not know the field.
            kind: None,
            ttl_seconds: self.ttl.map(|ttl| ttl.as_secs()),
            user_metadata: self.metadata,
        };
        body.validate()?;
        if body.path.is_none() {
            body.sampling_session_seq_id = Some(next_sampling_seq());
        }
        Ok(SaveForSamplerRequest(body))
    }
}

impl<T: Into<String>> From<T> for SaveForSampler {
    fn from(name: T) -> Self {
        Self::named(name)
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
pub(crate) struct SaveForSamplerRequest(SaveWeightsForSampler);

impl Request for SaveForSamplerRequest {
    fn call(&self, seq_id: u64, _: &ServerProfile) -> Result<Call> {
        let body = SaveWeightsForSampler {
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

    fn renewed(&self, session: &dyn SessionContext) -> Option<Box<dyn Request>> {
        let body = self.0.clone();
        body.sampling_session_seq_id?;
        Some(Box::new(Self(SaveWeightsForSampler {
            sampling_session_seq_id: Some(session.next_sampling_seq()),
            ..body
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_save_uses_up_no_number() {
        let model = Arc::from("m");
        assert_eq!(
            SaveState::named("a/b")
                .into_request(&model)
                .unwrap_err()
                .field(),
            Some("name")
        );
        let short = SaveForSampler::unnamed().ttl(Duration::from_secs(1));
        let refused = short.into_request(&model, || panic!("no number for a refused save"));
        assert_eq!(refused.unwrap_err().field(), Some("ttl_seconds"));
    }

    #[test]
    fn unnamed_save_keeps_its_number_on_every_retry() {
        let model = Arc::from("m");
        let request = SaveForSampler::unnamed()
            .into_request(&model, || 7)
            .unwrap();
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
