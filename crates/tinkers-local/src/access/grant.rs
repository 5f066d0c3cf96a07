//! What an API key grants: the owner in whose name its requests act, and their permissions.

use std::collections::BTreeSet;
use std::fmt;

use http::StatusCode;

use super::owner::Owner;
use crate::read::{Refusal, Route};

/// A kind of requests that an API key of the embedded server can permit or not. Requests for configuration, sessions and results need no
/// permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Permission {
    /// Create, train, load, save and unload models.
    Train,
    /// Create samplers and sample.
    Sample,
    /// List and describe sessions, training runs and checkpoints, and read the usage, the audit log and traces.
    Read,
    /// Delete, expire, publish and copy checkpoints, and move sessions to projects.
    Manage,
}

impl Permission {
    /// All permissions.
    pub const ALL: [Self; 4] = [Self::Train, Self::Sample, Self::Read, Self::Manage];

    /// Returns the name of the permission in the file of `tinkers serve --keys` and in error texts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Sample => "sample",
            Self::Read => "read",
            Self::Manage => "manage",
        }
    }

    /// Returns the permissions of which a request of a route needs one. Returns an empty list if it needs none.
    fn needed(route: Route) -> &'static [Self] {
        match route {
            Route::Health
            | Route::Capabilities
            | Route::ClientConfig
            | Route::DynamicConfig
            | Route::Telemetry
            | Route::AuthToken
            | Route::ApiKey
            | Route::CreateSession
            | Route::Heartbeat
            | Route::FinishSession
            | Route::RetrieveFuture
            | Route::RetrieveFutures
            | Route::CancelFuture => &[],
            Route::CreateModel
            | Route::UnloadModel
            | Route::Forward
            | Route::ForwardBackward
            | Route::OptimStep
            | Route::SaveWeights
            | Route::SaveWeightsForSampler
            | Route::LoadWeights => &[Self::Train],
            Route::CreateSamplingSession | Route::Sample => &[Self::Sample],
            // Training and sampling clients read these descriptions, too.
            Route::ModelInfo | Route::WeightsInfo => &[Self::Train, Self::Read],
            Route::Sampler => &[Self::Sample, Self::Read],
            Route::Sessions
            | Route::Session
            | Route::SearchSessions
            | Route::SearchCheckpoints
            | Route::TraceExport
            | Route::Audit
            | Route::BillingUsage
            | Route::CheckpointStorage
            | Route::TrainingRuns
            | Route::TrainingRun
            | Route::RunCheckpoints
            | Route::Checkpoints => &[Self::Read],
            Route::DeleteCheckpoint
            | Route::DeleteEscapedCheckpoint
            | Route::PublishCheckpoint
            | Route::CheckpointTtl
            | Route::CopyWeights
            | Route::SessionProject => &[Self::Manage],
        }
    }
}

/// An API key of the embedded server, with its owner and its permissions.
///
/// ```
/// use tinkers_local::{AccessControl, AccessKey, Permission};
///
/// let access = AccessControl::default()
///     .with_access_key(AccessKey::new("tml-one", "alice"))
///     .with_access_key(AccessKey::new("tml-two", "bob").with_permissions([Permission::Sample]));
/// # assert!(access.needs_key());
/// ```
#[derive(Clone)]
pub struct AccessKey {
    pub(super) secret: String,
    pub(super) grant: Grant,
}

/// The owner, the organization and the permissions of an API key.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    pub(crate) owner: Owner,
    pub(super) organization: String,
    permissions: BTreeSet<Permission>,
}

impl AccessKey {
    /// Creates a key of an owner, with all permissions. Keys of the same owner share sessions, models, samplers and checkpoints; those of
    /// other owners can neither see nor use them.
    pub fn new(secret: impl Into<String>, owner: &str) -> Self {
        let grant = Grant {
            owner: Owner::new(owner),
            ..Grant::default()
        };
        Self {
            secret: secret.into(),
            grant,
        }
    }

    /// Sets the organization that the description of the key and its tokens name. It has no other effect.
    #[must_use]
    pub fn with_organization(mut self, organization: impl Into<String>) -> Self {
        self.grant.organization = organization.into();
        self
    }

    /// Sets the permissions of the key. The server refuses other requests of the key with status 403.
    #[must_use]
    pub fn with_permissions(mut self, permissions: impl IntoIterator<Item = Permission>) -> Self {
        self.grant.permissions = permissions.into_iter().collect();
        self
    }
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessKey")
            .field("grant", &self.grant)
            .finish_non_exhaustive()
    }
}

impl Default for Grant {
    fn default() -> Self {
        Self {
            owner: Owner::default(),
            organization: "local".to_owned(),
            permissions: Permission::ALL.into(),
        }
    }
}

impl Grant {
    /// Checks that the key permits requests of a route.
    pub(crate) fn permits(&self, route: Route) -> Result<(), Refusal> {
        let needed = Permission::needed(route);
        if needed.is_empty() || needed.iter().any(|one| self.permissions.contains(one)) {
            return Ok(());
        }
        let names: Vec<String> = needed
            .iter()
            .map(|one| format!("{:?}", one.name()))
            .collect();
        let reason = format!(
            "this API key has no permission {} for {}",
            names.join(" or "),
            route.path()
        );
        Err(Refusal::new(StatusCode::FORBIDDEN, reason))
    }

    /// Returns the URN of the owner, as the claims of tokens contain it.
    /// Returns the e-mail address of the owner: its name, if that is an address.
    pub(super) fn email(&self) -> String {
        match self.owner.name() {
            name if name.contains('@') => name.to_owned(),
            name => format!("{name}@localhost"),
        }
    }
}
