//! The interface of concurrency limiters under test.

use std::sync::Arc;
use std::time::Duration;

use tinkers_core::{BoxFuture, ManualClock};

/// A concurrency limiter under test, with at most [`Subject::limit`] permits.
pub trait Subject: Send + Sync + 'static {
    /// The permit of an admitted waiter.
    type Permit: Permit;

    /// Creates a limiter with `limit` permits on `clock`.
    fn new(limit: u32, clock: ManualClock) -> Arc<Self>;

    /// Waits for a permit. `retry_state` comes from the previous attempt of the same request.
    fn acquire(
        self: &Arc<Self>,
        client: u64,
        retry_state: RetryStateOf<Self>,
    ) -> BoxFuture<'static, Self::Permit>;

    /// Returns the resources that are held now.
    fn held(&self) -> HeldResources;

    /// Returns the current number of permits.
    fn limit(&self) -> u64;

    /// Returns the counts of the limiter itself, if it has any.
    fn counts(&self) -> Option<Counts>;
}

/// The state that an attempt at `S` leaves for its retry.
pub type RetryStateOf<S> = <<S as Subject>::Permit as Permit>::RetryState;

/// A permit. Dropping it releases it as an aborted attempt.
pub trait Permit: Send + 'static {
    /// The state that an attempt leaves for its retry.
    type RetryState: Default + Send + 'static;

    /// Ends the attempt and releases the permit.
    fn end(self, how: PermitOutcome) -> Self::RetryState;
}

/// The outcome of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PermitOutcome {
    /// Accepted by the server. The retry state is dropped when the result arrives.
    Accepted,
    /// Refused with a retry hint.
    Refused(Duration),
    /// No response.
    Unknown,
}

/// Resources held in a limiter; all zero when it is idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeldResources {
    /// Slots of requests being sent.
    pub slots: u64,
    /// Bytes of requests being sent.
    pub bytes: u64,
    /// Requests from admission to result.
    pub in_flight: u64,
    /// Queued waiters.
    pub waiting: u64,
    /// Grants that their waiters have not collected yet.
    pub uncollected: u64,
}

/// Counts of a limiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Granted permits.
    pub grants: u64,
    /// Attempts that waited.
    pub waits: u64,
    /// Wake-ups of waiters.
    pub wakes: u64,
    /// Wake-ups of the one waiter that monitors uncollected grants.
    pub watches: u64,
    /// Grants that were returned unused: the waiter was dropped or did not collect in time.
    pub unused: u64,
    /// Refusals by the server.
    pub refusals: u64,
    /// Congestion events; several refusals may belong to one.
    pub events: u64,
    /// Probes after a pause.
    pub probes: u64,
    /// Failed compare-exchanges.
    pub lost: u64,
}
