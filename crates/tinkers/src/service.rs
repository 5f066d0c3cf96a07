//! The service client: one session, and the clients that are created on it.

use std::sync::Arc;

use tinkers_core::{RecoveredErrorCounts, Result, ServerProfile, SessionContext};
use tinkers_dispatch::{LimiterEvents, LimiterSnapshot};
use tinkers_sampling::CreateSamplingClient;
use tinkers_session::{Session, SessionEvents};
use tinkers_training::{CreateLoraTrainingClient, CreateTrainingClientFromState, RestoreOptimizer};
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

    /// Starts the creation of a training client with a new LoRA adapter of `base_model`. Finish it with `create()`.
    pub fn lora_training(&self, base_model: impl Into<String>) -> CreateLoraTrainingClient {
        CreateLoraTrainingClient::new(self.context(), base_model)
    }

    /// Starts the creation of a training client from a training checkpoint, with or without the state of the optimizer. Finish it with
    /// `create()`.
    pub fn training_from_state(
        &self,
        path: impl AsRef<str>,
        optimizer: RestoreOptimizer,
    ) -> CreateTrainingClientFromState {
        CreateTrainingClientFromState::new(self.context(), path, optimizer)
    }

    /// Starts the creation of a sampling client for `source`: a base model, or the `tinker://` path of saved weights. Finish it with
    /// `create()`.
    pub fn sampling(&self, source: impl AsRef<str>) -> CreateSamplingClient {
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
