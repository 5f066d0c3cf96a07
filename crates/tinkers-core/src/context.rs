//! The seam between the clients and the session they belong to.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tinkers_wire::{ClientConfig, DynamicConfig};

use crate::admission::ClientId;
use crate::call::Caller;
use crate::error::Error;
use crate::profile::{Fact, ServerProfile};
use crate::spawn::{BoxFuture, Spawn};

/// What a client needs of its session. Sampling and training hold an `Arc<dyn SessionContext>` and know nothing else of
/// the network, the limits or the runtime.
pub trait SessionContext: Send + Sync + fmt::Debug + 'static {
    /// Makes calls.
    fn caller(&self) -> &Caller;

    /// Starts tasks on the I/O runtime.
    fn spawner(&self) -> &dyn Spawn;

    /// The server's id of the session.
    fn session_id(&self) -> &str;

    /// The flags that the server gave at the start.
    fn config(&self) -> &ClientConfig;

    /// The flags that are refreshed while the session lives.
    fn dynamic_config(&self) -> Arc<DynamicConfig>;

    /// What is known of the server.
    fn profile(&self) -> Arc<ServerProfile>;

    /// Remembers something about the server, for every client of its endpoint.
    fn learn(&self, fact: Fact);

    /// Returns an error when the session is over: `Closed` when the caller closed it, `SessionLost` when the server has ended it.
    fn check_open(&self) -> Result<(), Error>;

    /// The same after asking the server, where that is worth a request: the server has lost something that the session had.
    fn confirm(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(std::future::ready(self.check_open()))
    }

    /// A number for a new client handle, which gets a queue of its own in the limiter.
    fn next_client(&self) -> ClientId;

    /// The next `model_seq_id`; counts from 0.
    fn next_model_seq(&self) -> u64;

    /// The next `sampling_session_seq_id`; counts from 0, shared by sampler creation and unnamed saves.
    fn next_sampling_seq(&self) -> u64;

    /// How long an operation may go without news before it counts as stalled.
    fn progress_deadline(&self) -> Duration;

    /// How long an operation may take in all, news or not; as long as it takes when `None`.
    fn operation_deadline(&self) -> Option<Duration>;

    /// Waits until `bytes` of a large result may be fetched; the guard gives them back when dropped.
    fn response_bytes(&self, bytes: u64) -> BoxFuture<'_, BytesGuard>;
}

/// Bytes of the budget for large results, given back when dropped.
pub struct BytesGuard {
    release: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl BytesGuard {
    /// A guard that gives back through `release`, exactly once.
    pub fn new(release: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self {
            release: Some(Box::new(release)),
        }
    }
}

impl Drop for BytesGuard {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            release();
        }
    }
}

impl fmt::Debug for BytesGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BytesGuard").finish_non_exhaustive()
    }
}
