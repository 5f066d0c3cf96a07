//! Making samplers: over a base model, or over saved weights.

use std::sync::Arc;

use tinkers_core::{
    Call, Deduplication, Error, ErrorKind, RecoveredError, Result, RouteClass, Sent, SessionContext,
};
use tinkers_futures::{ApiFuture, Operation, start};
use tinkers_wire::{CreateSamplingSession, SamplingSessionCreated, TinkerPath, routes, to_json};

use crate::SamplingClient;

/// What a creation that may have been made twice, or made and not told, is reported with.
const LOST: &str = "the reply to an attempt was lost: the server may hold an unused sampler until the session ends";

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
pub struct CreateSamplingClient {
    session: Arc<dyn SessionContext>,
    source: Result<Source>,
}

impl CreateSamplingClient {
    /// Over `source`, a base model's name or a `tinker://` path; a wrong one fails in [`CreateSamplingClient::create`].
    pub fn new(session: Arc<dyn SessionContext>, source: impl AsRef<str>) -> Self {
        Self {
            session,
            source: Source::read(source.as_ref()),
        }
    }

    /// Makes the sampler.
    pub fn create(self) -> ApiFuture<SamplingClient> {
        let operation = Operation::new(
            Arc::clone(&self.session),
            "ServiceClient.sampling",
            RouteClass::Train,
        );
        start(operation.clone(), async move {
            self.create_in(&operation).await
        })
    }

    /// The same as a step of a larger operation, whose progress it tells. Dropping the future gives it up; the server may have
    /// made the sampler.
    ///
    /// # Errors
    /// `InvalidInput` for a source that is none, and what the server refuses.
    pub async fn create_in(self, operation: &Operation) -> Result<SamplingClient> {
        let source = self.source?;
        self.session.check_open()?;
        let (base_model, model_path) = match source {
            Source::BaseModel(name) => (Some(name), None),
            Source::Weights(path) => (None, Some(path)),
        };
        let body = CreateSamplingSession {
            session_id: self.session.session_id().to_owned(),
            sampling_session_seq_id: Some(self.session.next_sampling_seq()),
            base_model,
            model_path,
        };
        let mut call = Call::post(
            routes::CREATE_SAMPLING_SESSION,
            to_json(&body),
            RouteClass::Train,
        );
        call.operation = Some(operation.name);
        call.progress = Some(Arc::clone(&operation.progress));
        call.deadline = operation.deadline;
        call.is_readable = Some(|answer| SamplingSessionCreated::read(&answer.body).is_ok());
        let accepted = self.session.caller().call(call).await;
        let accepted = accepted.map_err(|error| match error.sent() {
            Sent::MaybeSent => error.with_context(LOST),
            _ => error,
        })?;
        let answer = accepted.response;
        let created = SamplingSessionCreated::read(&answer.body).map_err(|error| {
            let message = format!("the server's answer is no sampler: {error}");
            Error::new(ErrorKind::Protocol, Sent::Answered, message)
                .with_answer(answer.status.as_u16(), &answer.body)
        })?;
        let sampler_id = created.sampling_session_id;
        if accepted.earlier == Sent::MaybeSent
            && self.session.profile().deduplicates != Deduplication::Everything
        {
            self.session
                .caller()
                .recovered_errors
                .count(RecoveredError::Orphan);
            tracing::warn!(
                recovered_error = RecoveredError::Orphan.name(),
                operation = operation.name,
                sampler_id,
                "{LOST}"
            );
        }
        Ok(SamplingClient::new(self.session, sampler_id))
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
