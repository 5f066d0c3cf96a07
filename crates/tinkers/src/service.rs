//! The way in: one session on one server, and the clients that are made of it.

use std::sync::Arc;

use tinkers_core::{RecoveredErrorCounts, Result, ServerProfile, SessionContext};
use tinkers_dispatch::{LimiterEvents, LimiterSnapshot};
use tinkers_sampling::CreateSamplingClient;
use tinkers_session::{Session, SessionEvents};
use tinkers_training::{CreateLoraTrainingClient, CreateTrainingClientFromState, RestoreOptimizer};
use tinkers_wire::{Capabilities, FinishReason};

use crate::ServiceClientBuilder;

/// A session on a Tinker server. Clones share it; it ends with [`ServiceClient::close`], or on the server by itself some
/// time after the last handle of it is gone.
#[derive(Debug, Clone)]
pub struct ServiceClient {
    session: Arc<Session>,
}

impl ServiceClient {
    /// The clients of a session that was opened by other means, such as over a transport of one's own.
    pub fn over(session: Arc<Session>) -> Self {
        Self { session }
    }

    /// The settings of a new client.
    pub fn builder() -> ServiceClientBuilder {
        ServiceClientBuilder::new()
    }

    /// Connects as the environment says: `TINKER_API_KEY`, and `TINKER_BASE_URL` for a server other than the hosted service.
    ///
    /// # Errors
    /// See [`ServiceClientBuilder::connect`].
    pub async fn from_env() -> Result<Self> {
        Self::builder().connect().await
    }

    /// A new LoRA adapter over `base_model`; set it up and `create()` it.
    pub fn lora_training(&self, base_model: impl Into<String>) -> CreateLoraTrainingClient {
        CreateLoraTrainingClient::new(self.context(), base_model)
    }

    /// A model from a training checkpoint, with or without the optimizer's state; `create()` it.
    pub fn training_from_state(
        &self,
        path: impl AsRef<str>,
        optimizer: RestoreOptimizer,
    ) -> CreateTrainingClientFromState {
        CreateTrainingClientFromState::new(self.context(), path, optimizer)
    }

    /// A sampler over a base model or over saved weights (a `tinker://` path); `create()` it.
    pub fn sampling(&self, source: impl AsRef<str>) -> CreateSamplingClient {
        CreateSamplingClient::new(self.context(), source)
    }

    /// The models that the server offers.
    ///
    /// # Errors
    /// When the server cannot be asked, or does not say.
    pub async fn capabilities(&self) -> Result<Capabilities> {
        self.session.capabilities().await
    }

    /// Whether the server is up.
    ///
    /// # Errors
    /// Says why it is not.
    pub async fn health(&self) -> Result<()> {
        self.session.health().await
    }

    /// What was found out about the server so far.
    pub fn server_profile(&self) -> Arc<ServerProfile> {
        self.session.server_profile()
    }

    /// What the limits look like now: who waits, what is under way, what the server's refusals have taught. They are shared by
    /// all clients of the same server and key in this process.
    pub fn limits(&self) -> LimiterSnapshot {
        self.session.endpoint().limiter().snapshot()
    }

    /// What happens to the limits from now on: pauses, probes, changes of the in-flight window.
    pub fn limiter_events(&self) -> LimiterEvents {
        self.session.endpoint().limiter().events()
    }

    /// The errors that the session and its clients took and went on from, so far, by what they were in the way of: attempts and
    /// polls that were made again, heartbeats that did not get through, a model that could not be freed, and so on. Each is a line
    /// in the log, too, at `DEBUG` or above. What the server refuses for its rate is counted by [`limits`](Self::limits).
    ///
    /// ```
    /// # async fn watch(service: tinkers::ServiceClient) {
    /// use tinkers::RecoveredError;
    ///
    /// let counts = service.recovered_errors();
    /// if counts.of(RecoveredError::Heartbeat) > 0 {
    ///     println!("{} errors were gone on from: {counts:?}", counts.total());
    /// }
    /// # }
    /// ```
    pub fn recovered_errors(&self) -> RecoveredErrorCounts {
        self.session.recovered_errors()
    }

    /// The server's id of the session.
    pub fn session_id(&self) -> &str {
        self.session.id()
    }

    /// What happens to the session: heartbeats that fail, and its end.
    pub fn events(&self) -> SessionEvents {
        self.session.events()
    }

    /// Ends the session: every later call fails with `Closed`, and the server is told why.
    ///
    /// # Errors
    /// When the server could not be told; the session is closed here all the same.
    pub async fn close(&self, reason: FinishReason, detail: Option<String>) -> Result<()> {
        self.session.close(reason, detail).await
    }

    /// The session as the clients see it, for clients of one's own.
    pub fn context(&self) -> Arc<dyn SessionContext> {
        Arc::clone(&self.session) as Arc<dyn SessionContext>
    }
}
