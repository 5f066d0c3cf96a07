//! Creation of samplers from a base model or from saved weights.

use std::future::IntoFuture;
use std::sync::Arc;

use tinkers_core::retry::SAME_REASONS;
use tinkers_core::{
    Call, Deduplication, Error, RecoveredError, Result, RouteClass, Sent, SessionContext,
};
use tinkers_futures::{
    ApiFuture, Operation, Retrieval, SubmissionOutcome, is_submission_or_result,
    read_submission_or_result, retrieve, start,
};
use tinkers_wire::{
    CreateSamplingSession, RequestKind, SamplingSessionCreated, TinkerPath, routes, to_json,
};

use crate::SamplingClient;

/// The warning if a response was lost while a sampler was created: the attempt without a response may have created a second sampler, which
/// is never used.
const ORPHAN: &str = "the response to an attempt was lost; the server may keep an unused sampler until the session ends";

/// The weights from which a sampler samples.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the protocol has these sources")]
pub enum SamplerSource {
    /// A base model with this name, such as `Qwen/Qwen3-8B`.
    BaseModel(String),
    /// Weights that were saved for sampling under this path.
    Weights(TinkerPath),
}

impl SamplerSource {
    /// Parses the path of saved weights or the name of a base model. A text with `://`, with a `/` at its start or with two or more `/` is a
    /// path, since names of base models have at most one `/`.
    ///
    /// # Errors
    /// `InvalidInput` if the text is empty, or a path with control characters.
    pub fn parse(text: &str) -> Result<Self> {
        let is_path =
            text.contains("://") || text.starts_with('/') || text.matches('/').count() > 1;
        if is_path {
            return Ok(Self::Weights(text.parse()?));
        }
        if text.is_empty() {
            return Err(Error::invalid(
                "source",
                "the name of a base model or a tinker:// path, got an empty text",
            ));
        }
        Ok(Self::BaseModel(text.to_owned()))
    }
}

/// A builder that creates a sampling client. Await the builder, or start the creation with [`CreateSamplingClient::send`].
///
/// ```no_run
/// # async fn create(session: std::sync::Arc<dyn tinkers_core::SessionContext>) -> tinkers_core::Result<()> {
/// # use tinkers_sampling as tinkers;
/// use tinkers::CreateSamplingClient;
///
/// let sampler = CreateSamplingClient::new(session, "Qwen/Qwen3-8B").await?;
/// println!("sampler {}", sampler.sampler_id());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Awaiting the builder fails with `InvalidInput` for an invalid source, before anything is sent. It fails with the server's error, such
/// as `NotFound` or `Rejected`, if the model or the saved weights do not exist: check the name or path.
///
/// # Cancel safety
/// Dropping the builder creates nothing. Dropping the future cancels the creation. The server may still create the sampler, which then
/// exists until the session ends.
#[derive(Debug, Clone)]
#[must_use = "nothing is created before the builder is awaited or `send` is called"]
pub struct CreateSamplingClient {
    session: Arc<dyn SessionContext>,
    source: Result<SamplerSource>,
}

impl CreateSamplingClient {
    /// Creates a builder for `source`: the name of a base model, or the path of saved weights. With an invalid source, awaiting the
    /// builder fails.
    pub fn new(session: Arc<dyn SessionContext>, source: impl AsRef<str>) -> Self {
        Self {
            session,
            source: SamplerSource::parse(source.as_ref()),
        }
    }

    /// Creates a builder for saved weights. `path` is their path, in whatever form the server has sent it.
    pub fn from_weights(session: Arc<dyn SessionContext>, path: TinkerPath) -> Self {
        Self {
            session,
            source: Ok(SamplerSource::Weights(path)),
        }
    }

    /// Starts the creation and returns its handle. Dropping the handle cancels the creation, but the server may still create the sampler.
    pub fn send(self) -> ApiFuture<SamplingClient> {
        let operation = Operation::new(
            Arc::clone(&self.session),
            "ServiceClient.create_sampling_client",
            RouteClass::Train,
        );
        start(operation.clone(), async move {
            self.create_in(&operation).await
        })
    }

    /// Creates the sampler as a step of `operation`, and reports the progress of the creation to `operation`.
    ///
    /// # Errors
    /// `InvalidInput` for an invalid source, and the errors of the server.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the creation, but the server may still create the sampler.
    pub async fn create_in(self, operation: &Operation) -> Result<SamplingClient> {
        let source = self.source?;
        self.session.check_open()?;
        let (base_model, model_path) = match source {
            SamplerSource::BaseModel(name) => (Some(name), None),
            SamplerSource::Weights(path) => (None, Some(path)),
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
        call.is_readable = Some(is_submission_or_result::<SamplingSessionCreated>);
        let leaves_nothing = self.session.profile().deduplicates == Deduplication::Everything;
        call.max_same_reason = (!leaves_nothing).then_some(SAME_REASONS);
        let accepted = self.session.caller().call(call).await;
        let accepted = accepted.map_err(|error| match error.sent() {
            Sent::MaybeSent => error.with_context(ORPHAN),
            _ => error,
        })?;
        let created: SamplingSessionCreated = match read_submission_or_result(&accepted.response) {
            Ok(SubmissionOutcome::Completed(created)) => created,
            Ok(SubmissionOutcome::Accepted(response)) => {
                retrieve(Retrieval {
                    operation: operation.clone(),
                    client: self.session.next_client(),
                    request_id: response.request_id,
                    kind: RequestKind::CreateSamplingSession,
                    submitted_in: accepted.elapsed,
                    queue_log: None,
                })
                .await?
            }
            Err(error) => {
                return Err(error.with_context("the server did not create a sampler"));
            }
        };
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
                "{ORPHAN}"
            );
        }
        Ok(SamplingClient::new(self.session, sampler_id))
    }
}

impl IntoFuture for CreateSamplingClient {
    type Output = Result<SamplingClient>;
    type IntoFuture = ApiFuture<SamplingClient>;

    fn into_future(self) -> Self::IntoFuture {
        self.send()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_sampler_source_is_parsed_as_path_or_model_name() {
        assert_eq!(
            SamplerSource::parse("Qwen/Qwen3-8B").unwrap(),
            SamplerSource::BaseModel("Qwen/Qwen3-8B".into())
        );
        assert!(matches!(
            SamplerSource::parse("tinker://m/sampler_weights/s").unwrap(),
            SamplerSource::Weights(_)
        ));
        for path in [
            "mint://m/s",
            "/srv/checkpoints/s",
            "sessions/m/sampler_weights/s",
        ] {
            let source = SamplerSource::parse(path).unwrap();
            assert!(matches!(source, SamplerSource::Weights(_)), "{path}");
        }
        let error = SamplerSource::parse("http://x/\ny").unwrap_err();
        assert_eq!(error.field(), Some("path"));
        assert_eq!(
            SamplerSource::parse("").unwrap_err().field(),
            Some("source")
        );
    }
}
