//! The service client: one session, and the clients that are created on it.

use std::sync::Arc;

use tinkers_core::{RecoveredErrorCounts, Result, ServerProfile, SessionContext, Timestamp};
use tinkers_dispatch::{LimiterEvents, LimiterSnapshot};
use tinkers_sampling::CreateSamplingClient;
use tinkers_session::{Session, SessionEvents};
use tinkers_training::{CreateLoraTrainingClient, CreateTrainingClientFromState};
use tinkers_wire::{Capabilities, FinishReason};

/// A session on a Tinker server, on which training and sampling clients are created.
///
/// Clones share the session. It ends with [`ServiceClient::close`]; otherwise the server ends it some time after the last clone, and the
/// last client created on it, is dropped.
#[derive(Debug, Clone)]
pub struct ServiceClient {
    session: Arc<Session>,
}

impl ServiceClient {
    /// Creates a service client on an open session, such as one with a custom transport.
    pub fn from_session(session: Arc<Session>) -> Self {
        Self { session }
    }

    /// Builds a training client with a new LoRA adapter of `base_model`. Await the builder.
    ///
    /// ```no_run
    /// # async fn create(service: tinkers::ServiceClient) -> tinkers::Result<()> {
    /// let training = service.create_lora_training_client("Qwen/Qwen3-8B").rank(32).await?;
    /// println!("training run {}", training.model_id());
    /// # Ok(())
    /// # }
    /// ```
    pub fn create_lora_training_client(
        &self,
        base_model: impl Into<String>,
    ) -> CreateLoraTrainingClient {
        CreateLoraTrainingClient::new(self.context(), base_model)
    }

    /// Builds a training client with the weights of a training checkpoint, given by its `tinker://` path, and a new optimizer. Await the
    /// builder.
    pub fn create_training_client_from_state(
        &self,
        path: impl AsRef<str>,
    ) -> CreateTrainingClientFromState {
        CreateTrainingClientFromState::new(self.context(), path)
    }

    /// Builds a training client with the weights and the optimizer state of a training checkpoint, given by its `tinker://` path. Training
    /// continues as if it had not been interrupted. Await the builder.
    ///
    /// ```no_run
    /// # async fn resume(service: tinkers::ServiceClient) -> tinkers::Result<()> {
    /// let path = "tinker://run-1/weights/step-100";
    /// let training = service.create_training_client_from_state_with_optimizer(path).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn create_training_client_from_state_with_optimizer(
        &self,
        path: impl AsRef<str>,
    ) -> CreateTrainingClientFromState {
        CreateTrainingClientFromState::with_optimizer(self.context(), path)
    }

    /// Builds a sampling client for `source`: a base model, or the `tinker://` path of weights that were saved for sampling. Await the
    /// builder.
    ///
    /// ```no_run
    /// # async fn create(service: tinkers::ServiceClient) -> tinkers::Result<()> {
    /// let base = service.create_sampling_client("Qwen/Qwen3-8B").await?;
    /// let tuned = service.create_sampling_client("tinker://run-1/sampler_weights/final").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn create_sampling_client(&self, source: impl AsRef<str>) -> CreateSamplingClient {
        CreateSamplingClient::new(self.context(), source)
    }

    /// Returns the models that the server offers.
    ///
    /// # Errors
    /// If the request fails, or the server does not list its models.
    pub async fn capabilities(&self) -> Result<Capabilities> {
        self.session.capabilities().await
    }

    /// Checks that the server is healthy.
    ///
    /// # Errors
    /// If the request fails, or the server is not healthy.
    pub async fn health(&self) -> Result<()> {
        self.session.health().await
    }

    /// Returns the properties of the server that are known so far.
    pub fn server_profile(&self) -> Arc<ServerProfile> {
        self.session.server_profile()
    }

    /// Returns the current state of the rate limits: waiting requests, requests in flight, and learned limits. All clients of the
    /// process with the same server and key share the limits.
    pub fn limits(&self) -> LimiterSnapshot {
        self.session.endpoint().limiter().snapshot()
    }

    /// Subscribes to events of the rate limits: pauses, probes, and changes of the in-flight window.
    pub fn limiter_events(&self) -> LimiterEvents {
        self.session.endpoint().limiter().events()
    }

    /// Returns the counters of recovered errors of the session and its clients, by operation: repeated attempts and polls, failed
    /// heartbeats, models that could not be freed, and so on. Each recovered error is also logged, at `DEBUG` or above. Rate-limited
    /// responses are counted by [`limits`](Self::limits).
    ///
    /// ```
    /// # async fn watch(service: tinkers::ServiceClient) {
    /// use tinkers::RecoveredError;
    ///
    /// let counts = service.recovered_errors();
    /// if counts.of(RecoveredError::Heartbeat) > 0 {
    ///     println!("{} recovered errors: {counts:?}", counts.total());
    /// }
    /// # }
    /// ```
    pub fn recovered_errors(&self) -> RecoveredErrorCounts {
        self.session.recovered_errors()
    }

    /// Returns the current time on the clock of the client. Times of the SDK, such as [`Error::retry_at`](crate::Error::retry_at) and
    /// [`GateSnapshot::ClosedUntil`](crate::GateSnapshot::ClosedUntil), are on this clock: subtract it with [`Timestamp::since`].
    ///
    /// ```
    /// # fn show(service: tinkers::ServiceClient) {
    /// use tinkers::GateSnapshot;
    ///
    /// if let GateSnapshot::ClosedUntil(time) = service.limits().sample.gate {
    ///     println!("the server paused sampling for {:?}", time.since(service.now()));
    /// }
    /// # }
    /// ```
    pub fn now(&self) -> Timestamp {
        self.session.caller().time.now()
    }

    /// Returns the id of the session on the server.
    pub fn session_id(&self) -> &str {
        self.session.id()
    }

    /// Subscribes to events of the session: failed heartbeats, and its end.
    pub fn events(&self) -> SessionEvents {
        self.session.events()
    }

    /// Closes the session and reports the reason to the server. Later calls fail with `Closed`.
    ///
    /// # Errors
    /// If the report fails. The session is closed nevertheless.
    pub async fn close(&self, reason: FinishReason, detail: Option<String>) -> Result<()> {
        self.session.close(reason, detail).await
    }

    /// Returns the session in the form that clients need, for custom clients.
    pub fn context(&self) -> Arc<dyn SessionContext> {
        Arc::clone(&self.session) as Arc<dyn SessionContext>
    }
}
