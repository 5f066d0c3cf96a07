//! Management of runs, checkpoints, sessions, usage and storage.
//!
//! With a session, create the client with [`ServiceClient::rest_client`], and without a session with
//! [`ServiceClientBuilder::rest_client`] or [`from_env`]. All of them share the rate limits of the server and API key.
//!
//! ```no_run
//! # async fn run() -> tinkers::Result<()> {
//! use tinkers::CheckpointKind;
//! use tinkers::rest::CheckpointFilter;
//!
//! let rest = tinkers::rest::from_env()?;
//! let mut runs = rest.list_training_runs().stream();
//! while let Some(run) = runs.next().await {
//!     println!("{}", run?.training_run_id);
//! }
//! let samplers = CheckpointFilter::new().run_id("a1b2:train:0").kind(CheckpointKind::Sampler);
//! let report = rest.delete_checkpoints_matching(&samplers).await?;
//! for failed in report.failed {
//!     eprintln!("{}: {}", failed.tinker_path, failed.error);
//! }
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;

use tinkers_core::{Result, SessionContext};
pub use tinkers_rest::{
    AdminClient, CheckpointFilter, CopyCheckpoint, DeleteReport, ExportSessionTrace, FailedDelete,
    ItemStream, KeepAlive, ListSessions, ListTrainingRuns, ListUserCheckpoints, RestClient,
    RestParts, SearchCheckpoints, SearchSessions,
};
use tinkers_session::CallerParts;
pub use tinkers_wire::{
    AccessScope, ApiKeyInfo, AuditEntry, AuditEventType, BillingUsage, Checkpoint, CheckpointList,
    CheckpointSearchPage, CheckpointStorage, CheckpointStorageUsage, CheckpointType, Cursor,
    ExternalUpload, ExternalWeightsUrls, FailedPart, OwnerFilter, SamplerInfo, SearchCursor,
    SessionInfo, SessionList, SessionSearchPage, SessionStatus, SessionStatusFilter,
    SessionSummary, SignedUrl, TrainingRun, TrainingRunList, UsageEvent, UsageInfo, UsageSession,
    WeightsInfo,
};

use crate::builder::SessionlessParts;
use crate::{ServiceClient, ServiceClientBuilder};

/// Creates a client without a session from the settings in the environment, such as `TINKER_API_KEY`. Nothing is sent.
///
/// # Errors
/// The errors of [`ServiceClientBuilder::rest_client`].
pub fn from_env() -> Result<RestClient> {
    ServiceClient::builder().rest_client()
}

impl ServiceClientBuilder {
    /// Creates a client for the management of runs, checkpoints and sessions that needs no session. Nothing is sent.
    ///
    /// The first call finds out whether the server exchanges credentials for tokens. This request is not retried, so a wrong address fails
    /// at once.
    ///
    /// ```no_run
    /// # async fn run() -> tinkers::Result<()> {
    /// let rest = tinkers::ServiceClient::builder().base_url("http://127.0.0.1:8000").rest_client()?;
    /// println!("{:?}", rest.list_sessions().page(0, 20).await?.sessions);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The errors of [`connect`](Self::connect) for invalid settings.
    pub fn rest_client(self) -> Result<RestClient> {
        let SessionlessParts {
            transport,
            auth,
            time,
            spawner,
            jitter,
            endpoint,
            recovered_errors,
            options,
        } = self.sessionless_parts()?;
        let connection = CallerParts {
            transport,
            time: Arc::clone(&time),
            jitter,
            recovered_errors,
        };
        let limiter = endpoint.limiter();
        let limits = options
            .limits
            .map(|limits| limiter.request_limits(limits, time));
        Ok(RestClient::new(RestParts {
            caller: connection.caller(&endpoint, &options),
            spawner,
            client: limiter.next_client(),
            auth: Some(auth),
            is_without_session: true,
            operation_deadline: options.operation_deadline,
            project_id: options.project_id,
            keep_alive: Arc::new((endpoint, limits)),
        }))
    }
}

impl ServiceClient {
    /// Returns a client for the management of runs, checkpoints and sessions. It uses the session of this client, so its calls fail with
    /// `Closed` after [`close`](Self::close). `create_rest_client` of the Python SDK.
    ///
    /// ```no_run
    /// # async fn run(service: tinkers::ServiceClient) -> tinkers::Result<()> {
    /// let rest = service.rest_client();
    /// let info = rest.get_session(service.session_id()).await?;
    /// println!("{:?}", info.training_run_ids);
    /// # Ok(())
    /// # }
    /// ```
    pub fn rest_client(&self) -> RestClient {
        let session = self.session();
        let options = session.options();
        RestClient::new(RestParts {
            caller: session.caller().clone(),
            spawner: session.shared_spawner(),
            client: session.next_client(),
            auth: session.auth().cloned(),
            is_without_session: false,
            operation_deadline: options.operation_deadline,
            project_id: options.project_id.clone(),
            keep_alive: Arc::<tinkers_session::Session>::clone(session),
        })
    }
}
