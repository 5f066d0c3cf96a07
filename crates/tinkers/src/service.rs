//! The service client: a session on a server, from which training and sampling clients are created.

use std::sync::Arc;

use tinkers_auth::{Identity, no_user};
use tinkers_core::{RecoveredErrorCounts, Result, ServerProfile, SessionContext, Timestamp};
use tinkers_dispatch::{LimiterEvents, LimiterSnapshot};
use tinkers_sampling::CreateSamplingClient;
use tinkers_session::{Session, SessionEvents, TelemetryCounts};
use tinkers_training::{CreateLoraTrainingClient, CreateTrainingClientFromState};
use tinkers_wire::{Capabilities, FinishReason};

/// A client of a Tinker server. The client holds one session, and creates the training and sampling clients of the session.
///
/// Clones share the session. [`ServiceClient::close`] ends the session. Without a close, the server ends the session some time (usually two
/// minutes) after the service client, its clones and all clients created from it are dropped.
///
/// ```no_run
/// # async fn run() -> tinkers::Result<()> {
/// use tinkers::{FinishReason, ServiceClient};
///
/// // Reads TINKER_API_KEY and TINKER_BASE_URL.
/// let service = ServiceClient::from_env().await?;
/// let training = service.create_lora_training_client("Qwen/Qwen3-8B").rank(32).await?;
/// println!("training run {}", training.model_id());
/// service.close(FinishReason::Success, None).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ServiceClient {
    session: Arc<Session>,
}

impl ServiceClient {
    /// Creates a service client from an open session, such as a session with a custom transport.
    pub fn from_session(session: Arc<Session>) -> Self {
        Self { session }
    }

    /// Returns the session of the client.
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Creates a training client with a new LoRA adapter of `base_model`. Nothing is sent before the returned builder is awaited. The type
    /// of the builder describes the errors.
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

    /// Creates a training client with the weights of a training checkpoint and a new optimizer. `path` is the `tinker://` path of the
    /// checkpoint. Nothing is sent before the returned builder is awaited. The type of the builder describes the errors.
    ///
    /// ```no_run
    /// # async fn start(service: tinkers::ServiceClient) -> tinkers::Result<()> {
    /// let path = "tinker://run-1/weights/step-100";
    /// let training = service.create_training_client_from_state(path).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn create_training_client_from_state(
        &self,
        path: impl AsRef<str>,
    ) -> CreateTrainingClientFromState {
        CreateTrainingClientFromState::new(self.context(), path)
    }

    /// Creates a training client with the weights and the optimizer state of a training checkpoint, so that training continues as if it had
    /// not been interrupted: on the embedded server, the losses are equal to the bit to those of an uninterrupted run with the same data.
    /// The new client has another model id, and its checkpoints belong to another training run.
    /// `path` is the `tinker://` path of the checkpoint. Nothing is sent before the returned builder is awaited. The
    /// type of the builder describes the errors.
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

    /// Creates a sampling client for `source`: the name of a base model, or the `tinker://` path of weights that were saved for sampling.
    /// Nothing is sent before the returned builder is awaited. The type of the builder describes the errors.
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

    /// Requests the capabilities of the server, such as the models that it offers.
    ///
    /// ```no_run
    /// # async fn list(service: tinkers::ServiceClient) -> tinkers::Result<()> {
    /// for model in service.capabilities().await?.supported_models {
    ///     println!("{:?}", model.model_name);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Timeout` after the operation deadline, `Protocol` if the server does not list its models, and the errors of the server.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the request.
    pub async fn capabilities(&self) -> Result<Capabilities> {
        self.session.capabilities().await
    }

    /// Checks with one request that the server is healthy. The request is not retried.
    ///
    /// # Errors
    /// The error of the request: `Connection` if the server is not reachable, or `Server` if it is not healthy.
    pub async fn health(&self) -> Result<()> {
        self.session.health().await
    }

    /// Returns the features of the server that are known so far, such as its software and the body formats that it accepts.
    pub fn server_profile(&self) -> Arc<ServerProfile> {
        self.session.server_profile()
    }

    /// Returns the current state of the rate limits for each route class: the number of requests that wait for admission, the number of
    /// requests in flight, and the limits that the SDK has detected so far. All clients of the process with the same server and API key
    /// share the limits.
    pub fn limits(&self) -> LimiterSnapshot {
        self.session.endpoint().limiter().snapshot()
    }

    /// Subscribes to events of the rate limits: the server requests a pause, the first request is sent after such a pause, or the limit of
    /// requests in flight changes.
    pub fn limiter_events(&self) -> LimiterEvents {
        self.session.endpoint().limiter().events()
    }

    /// Returns the number of errors from which the session and its clients have recovered, by kind: retried requests and polls, failed
    /// heartbeats, models that could not be unloaded, and so on. Each of these errors is also logged, at level `DEBUG` or above.
    /// Rate-limited responses are not included; [`limits`](Self::limits) contains their number.
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

    /// Returns the numbers of telemetry events of this client: recorded, sent, dropped and waiting. All are zero if
    /// [telemetry](crate::ServiceClientBuilder::telemetry) is off.
    pub fn telemetry(&self) -> TelemetryCounts {
        self.session.telemetry()
    }

    /// Returns the address of this session in the console of the hosted service, or `None` for another server.
    pub fn console_url(&self) -> Option<String> {
        self.session.console_url()
    }

    /// Returns the current time of the client's clock. [`Error::retry_at`](crate::Error::retry_at),
    /// [`GateSnapshot::ClosedUntil`](crate::GateSnapshot::ClosedUntil) and other times of the SDK are on this clock. Subtract the current time
    /// with [`Timestamp::since`] to get a duration.
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

    /// Returns the user whose credential the client sends. Nothing is sent: the user is read from the claims of the token for which the
    /// API key was exchanged, or of a JWT that is a login.
    ///
    /// # Errors
    /// `Unsupported` if the credential is an API key that the server does not exchange for a token. API keys do not contain a user.
    pub fn whoami(&self) -> Result<Identity> {
        self.session.identity().ok_or_else(no_user)
    }

    /// Subscribes to the events of the session, such as messages of the server, pauses until a bill is paid, failing heartbeats, and the end of
    /// the session.
    pub fn events(&self) -> SessionEvents {
        self.session.events()
    }

    /// Closes the session, and reports `reason` to the server. Later calls fail with `Closed`, and so do calls that the server has not
    /// accepted yet. A close takes at most one minute.
    ///
    /// ```no_run
    /// # async fn finish(service: tinkers::ServiceClient) -> tinkers::Result<()> {
    /// use tinkers::FinishReason;
    ///
    /// service.close(FinishReason::Errored, Some("the loss is NaN".to_owned())).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The error of the report to the server. The session is closed nevertheless, and the server ends the session after its expiry, so the
    /// error needs no action.
    ///
    /// # Cancel safety
    /// Dropping the future closes the session for its clients, but may leave it open on the server until its expiry.
    pub async fn close(&self, reason: FinishReason, detail: Option<String>) -> Result<()> {
        self.session.close(reason, detail).await
    }

    /// Returns the session as the trait object from which training and sampling clients are created, for programs with custom clients.
    pub fn context(&self) -> Arc<dyn SessionContext> {
        Arc::clone(&self.session) as Arc<dyn SessionContext>
    }
}
