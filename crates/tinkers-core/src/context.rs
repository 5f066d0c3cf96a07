//! The interface between clients and their session.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tinkers_wire::{ClientConfig, DynamicConfig};

use crate::admission::ClientId;
use crate::call::Caller;
use crate::error::Error;
use crate::profile::{ProfileUpdate, ServerProfile};
use crate::spawn::{BoxFuture, Spawn};

/// The services that a session offers to its clients. Training and sampling clients reach the network, the rate limits and the runtime only
/// through this trait.
pub trait SessionContext: Send + Sync + fmt::Debug + 'static {
    /// Returns the caller, which makes the API calls of the session.
    fn caller(&self) -> &Caller;

    /// Returns the spawner of background tasks on the I/O runtime.
    fn spawner(&self) -> &dyn Spawn;

    /// Returns the session id.
    fn session_id(&self) -> &str;

    /// Returns the configuration that the server sent when the session was created.
    fn config(&self) -> &ClientConfig;

    /// Returns the latest dynamic configuration of the server, which the session refreshes from time to time.
    fn dynamic_config(&self) -> Arc<DynamicConfig>;

    /// Returns the known properties of the server.
    fn profile(&self) -> Arc<ServerProfile>;

    /// Adds `fact` to the known properties of the server, for all clients of the endpoint.
    fn learn(&self, fact: ProfileUpdate);

    /// Checks that the session is open, as far as the client knows. Sends no request.
    ///
    /// # Errors
    /// `Closed` if the user closed the session, `SessionLost` if the server ended it.
    fn check_open(&self) -> Result<(), Error>;

    /// Checks that the session is open, like [`SessionContext::check_open`], and asks the server if the client cannot tell. Call it after
    /// the server reported that it no longer knows a model or sampler of the session, to find out whether the whole session is lost.
    fn confirm(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(std::future::ready(self.check_open()))
    }

    /// Records for telemetry that `operation` failed with `error`. `operation` is the name of a public method, as `Client.method`. Must
    /// not block.
    fn operation_failed(&self, operation: &'static str, error: &Error) {
        let _ = (operation, error);
    }

    /// Cancels a sample on the server, whose result the program does not want any more, if the server supports this. Returns at once: the
    /// request is sent later by a task of the session, and its failure is only logged.
    fn cancel_sample(&self, request_id: &str) {
        let _ = request_id;
    }

    /// Returns a new id for a training or sampling client. The requests with this id wait in a queue of their own in the rate limiter.
    fn next_client(&self) -> ClientId;

    /// Returns the next `model_seq_id`, the sequence number that the API requires for the creation of a model. The first one is 0.
    fn next_model_seq(&self) -> u64;

    /// Returns the next `sampling_session_seq_id`, a sequence number that the API requires. The first one is 0. The creation of samplers
    /// and saves without a name take their numbers from the same sequence.
    fn next_sampling_seq(&self) -> u64;

    /// Returns the time without progress after which an operation counts as stalled.
    fn progress_deadline(&self) -> Duration;

    /// Returns the maximum duration of an operation, after which it fails. `None` is unlimited.
    fn operation_deadline(&self) -> Option<Duration>;

    /// Waits until the byte budget that all large results share has room for a result of `bytes` bytes. Dropping the guard returns the
    /// bytes to the budget.
    fn response_bytes(&self, bytes: u64) -> BoxFuture<'_, BytesGuard>;
}

/// A guard of bytes that were taken from the byte budget for large results. Dropping the guard returns the bytes.
pub struct BytesGuard {
    release: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl BytesGuard {
    /// Creates a guard that calls `release` once when dropped.
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
