//! Making samplers: over a base model, or over saved weights.

use std::sync::Arc;

use tinkers_core::{Call, Error, ErrorKind, Result, RouteClass, Sent, SessionContext};
use tinkers_futures::{ApiFuture, Operation, start};
use tinkers_wire::{CreateSamplingSession, SamplingSessionCreated, TinkerPath, routes, to_json};

use crate::SamplingClient;

/// What is sampled from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A base model, by name.
    BaseModel(String),
    /// Saved weights.
    Weights(TinkerPath),
}

impl Source {
    /// A `tinker://` path, or else a base model's name.
    ///
    /// # Errors
    /// When the text opens like a path and is none, or is empty.
    pub fn read(text: &str) -> Result<Self> {
        if text.contains("://") {
            return Ok(Self::Weights(text.parse()?));
        }
        if text.is_empty() {
            return Err(Error::invalid(
                "source",
                "a base model's name or a tinker:// path, got an empty text",
            ));
        }
        Ok(Self::BaseModel(text.to_owned()))
    }
}

/// A sampler to be made.
#[derive(Debug, Clone)]
#[must_use = "nothing is made before create() is called"]
pub struct NewSampler {
    session: Arc<dyn SessionContext>,
    source: Result<Source>,
}

impl NewSampler {
    /// Over `source`, a base model's name or a `tinker://` path; a wrong one fails in [`NewSampler::create`].
    pub fn new(session: Arc<dyn SessionContext>, source: &str) -> Self {
        Self {
            session,
            source: Source::read(source),
        }
    }

    /// Makes the sampler.
    pub fn create(self) -> ApiFuture<SamplingClient> {
        const NAME: &str = "ServiceClient.sampling";
        let operation = Operation::new(Arc::clone(&self.session), NAME);
        let progress = Arc::clone(&operation.progress);
        start(operation, async move {
            let source = self.source?;
            self.session.check_open()?;
            let (base_model, model_path) = match source {
                Source::BaseModel(name) => (Some(name), None),
                Source::Weights(path) => (None, Some(path)),
            };
            let body = CreateSamplingSession {
                session_id: self.session.session_id().to_owned(),
                sampling_session_seq_id: self.session.next_sampling_seq(),
                base_model,
                model_path,
            };
            let mut call = Call::post(
                routes::CREATE_SAMPLING_SESSION,
                to_json(&body),
                RouteClass::Train,
            );
            call.operation = Some(NAME);
            call.progress = Some(progress);
            let answer = self.session.caller().call(call).await?.response;
            let created = SamplingSessionCreated::read(&answer.body).map_err(|error| {
                let message = format!("the server's answer is no sampler: {error}");
                Error::new(ErrorKind::Protocol, Sent::Answered, message)
                    .with_answer(answer.status.as_u16(), &answer.body)
            })?;
            Ok(SamplingClient::new(
                self.session,
                created.sampling_session_id,
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_path_or_a_name() {
        assert_eq!(
            Source::read("Qwen/Qwen3-8B").unwrap(),
            Source::BaseModel("Qwen/Qwen3-8B".into())
        );
        assert!(matches!(
            Source::read("tinker://m/sampler_weights/s").unwrap(),
            Source::Weights(_)
        ));
        assert_eq!(
            Source::read("http://x/y").unwrap_err().field(),
            Some("path")
        );
        assert_eq!(Source::read("").unwrap_err().field(), Some("source"));
    }
}
