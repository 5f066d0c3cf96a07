//! What can be said of a save, and the requests for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tinkers_core::{Call, Result, RouteClass, ServerProfile, SessionContext};
use tinkers_wire::{CheckpointKind, SaveWeights, SaveWeightsForSampler, routes, to_json};

use crate::parts::{Part, SavedName, WhenLost};

/// A training checkpoint to be saved. A name alone is one: `client.save_state("step-10")`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a description saves nothing by itself"]
pub struct SaveState {
    name: String,
    ttl: Option<Duration>,
    overwrite: bool,
    metadata: Option<BTreeMap<String, String>>,
}

impl SaveState {
    /// Under this name: 1 to 255 letters, digits, `-`, `_` and `.`.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ttl: None,
            overwrite: false,
            metadata: None,
        }
    }

    /// Deleted after `ttl`, from an hour to ten years; kept for ever otherwise.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Replaces a checkpoint of the same name, notes included.
    pub fn overwrite(mut self) -> Self {
        self.overwrite = true;
        self
    }

    /// With notes of the caller's own.
    pub fn user_metadata(mut self, metadata: BTreeMap<String, String>) -> Self {
        self.metadata = Some(metadata);
        self
    }

    pub(crate) fn into_part(self, model_id: &Arc<str>) -> Result<SaveStatePart> {
        let body = SaveWeights {
            model_id: model_id.to_string(),
            seq_id: 0,
            path: Some(self.name),
            ttl_seconds: self.ttl.map(|ttl| ttl.as_secs()),
            overwrite: self.overwrite.then_some(true),
            user_metadata: self.metadata,
        };
        body.validate()?;
        Ok(SaveStatePart(body))
    }
}

impl<T: Into<String>> From<T> for SaveState {
    fn from(name: T) -> Self {
        Self::named(name)
    }
}

/// Weights to be saved for sampling: under a name, or for one sampler and no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a description saves nothing by itself"]
pub struct SaveForSampler {
    name: Option<String>,
    ttl: Option<Duration>,
    metadata: Option<BTreeMap<String, String>>,
}

impl SaveForSampler {
    /// Under this name, to stay.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: Some(name.into()),
            ttl: None,
            metadata: None,
        }
    }

    /// For one sampler, without a name.
    pub fn unnamed() -> Self {
        Self {
            name: None,
            ttl: None,
            metadata: None,
        }
    }

    /// Deleted after `ttl`, from an hour to ten years; of named weights only.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// With notes of the caller's own; of named weights only.
    pub fn user_metadata(mut self, metadata: BTreeMap<String, String>) -> Self {
        self.metadata = Some(metadata);
        self
    }

    /// `next_sampling_seq` is asked for unnamed weights alone, and once: every retry has the same number.
    pub(crate) fn into_part(
        self,
        model_id: &Arc<str>,
        next_sampling_seq: impl FnOnce() -> u64,
    ) -> Result<SaveForSamplerPart> {
        let mut body = SaveWeightsForSampler {
            model_id: model_id.to_string(),
            seq_id: 0,
            // Stands in until everything else is known to be right, so that a refused call uses up no number.
            sampling_session_seq_id: self.name.is_none().then_some(0),
            path: self.name,
            // A snapshot, which older servers have no word for.
            kind: None,
            ttl_seconds: self.ttl.map(|ttl| ttl.as_secs()),
            user_metadata: self.metadata,
        };
        body.validate()?;
        if body.path.is_none() {
            body.sampling_session_seq_id = Some(next_sampling_seq());
        }
        Ok(SaveForSamplerPart(body))
    }
}

impl<T: Into<String>> From<T> for SaveForSampler {
    fn from(name: T) -> Self {
        Self::named(name)
    }
}

#[derive(Debug)]
pub(crate) struct SaveStatePart(SaveWeights);

impl Part for SaveStatePart {
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

    fn when_lost(&self) -> WhenLost {
        match self.0.overwrite {
            Some(true) => WhenLost::Repeat,
            _ => WhenLost::Look,
        }
    }

    fn changes_model(&self) -> bool {
        false
    }

    fn saved_name(&self) -> Option<SavedName> {
        Some(SavedName {
            kind: CheckpointKind::Training,
            name: self.0.path.clone()?,
        })
    }
}

#[derive(Debug)]
pub(crate) struct SaveForSamplerPart(SaveWeightsForSampler);

impl Part for SaveForSamplerPart {
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

    fn when_lost(&self) -> WhenLost {
        match self.0.path {
            None => WhenLost::Repeat,
            Some(_) => WhenLost::Look,
        }
    }

    fn changes_model(&self) -> bool {
        false
    }

    fn saved_name(&self) -> Option<SavedName> {
        Some(SavedName {
            kind: CheckpointKind::Sampler,
            name: self.0.path.clone()?,
        })
    }

    fn renewed(&self, session: &dyn SessionContext) -> Option<Box<dyn Part>> {
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
    fn a_bad_save_is_refused_and_uses_up_no_number() {
        let model = Arc::from("m");
        assert_eq!(
            SaveState::named("a/b")
                .into_part(&model)
                .unwrap_err()
                .field(),
            Some("name")
        );
        let short = SaveForSampler::unnamed().ttl(Duration::from_secs(1));
        let refused = short.into_part(&model, || panic!("no number for a refused save"));
        assert_eq!(refused.unwrap_err().field(), Some("ttl_seconds"));
    }

    #[test]
    fn an_unnamed_save_keeps_its_number_on_every_retry() {
        let model = Arc::from("m");
        let part = SaveForSampler::unnamed().into_part(&model, || 7).unwrap();
        let profile = ServerProfile::default();
        assert_eq!(
            part.call(2, &profile).unwrap().body,
            part.call(2, &profile).unwrap().body
        );
        assert_eq!(part.saved_name(), None);
        let body = part.call(2, &profile).unwrap().body;
        assert_eq!(
            &body[..],
            br#"{"model_id":"m","seq_id":2,"sampling_session_seq_id":7}"#
        );
    }
}
