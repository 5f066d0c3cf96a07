//! The interface of the limiters under test.

use std::sync::Arc;
use std::time::Duration;

use tinkers_core::{BoxFuture, ManualClock};

/// A limiter under test. It grants at most [`Subject::limit`] permits at the same time.
pub trait Subject: Send + Sync + 'static {
    /// The permit that an admitted waiter gets.
    type Permit: Permit;

    /// Creates a limiter with `limit` permits that reads the time from `clock`.
    fn new(limit: u32, clock: ManualClock) -> Arc<Self>;

    /// Waits for a permit. `retry_state` is what the previous attempt of the same request left for
    /// its retry.
    fn acquire(
        self: &Arc<Self>,
        client: u64,
        retry_state: RetryStateOf<Self>,
    ) -> BoxFuture<'static, Self::Permit>;

    /// Returns the resources that the limiter holds now.
    fn held(&self) -> HeldResources;

    /// Returns the number of permits that the limiter currently allows.
    fn limit(&self) -> u64;

    /// Returns the statistics of the limiter, or `None` if the limiter keeps none.
    fn counts(&self) -> Option<Counts>;
}

/// The state that an attempt with the limiter `S` leaves for its retry.
pub type RetryStateOf<S> = <<S as Subject>::Permit as Permit>::RetryState;

/// A permit of a limiter under test. Dropping a permit releases it as if its attempt had been
/// aborted.
pub trait Permit: Send + 'static {
    /// The state that an attempt leaves for its retry.
    type RetryState: Default + Send + 'static;

    /// Ends the attempt with an outcome, and releases the permit.
    fn end(self, how: PermitOutcome) -> Self::RetryState;
}

/// The outcome of an attempt to send a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PermitOutcome {
    /// The server accepted the request. The retry state is dropped when the result of the operation
    /// arrives.
    Accepted,
    /// The server refused the request and asked for the given retry delay.
    Refused(Duration),
    /// No response arrived.
    Unknown,
}

/// The resources that a limiter holds. All of them are zero when the limiter is idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeldResources {
    /// The number of send slots that are held by requests being sent.
    pub slots: u64,
    /// The number of bytes that are held by requests being sent.
    pub bytes: u64,
    /// The number of requests that are in flight, from their admission to their result.
    pub in_flight: u64,
    /// The number of waiters in the queue.
    pub waiting: u64,
    /// The number of permits that were granted but not yet collected by their waiters.
    pub uncollected: u64,
}

/// The statistics of a limiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// The number of permits that were granted.
    pub grants: u64,
    /// The number of attempts that waited.
    pub waits: u64,
    /// The number of wake-ups of waiters.
    pub wakes: u64,
    /// The number of wake-ups of the one waiter that checks for uncollected permits.
    pub watches: u64,
    /// The number of permits that were returned without use, because the waiter was dropped or did
    /// not collect its permit in time.
    pub unused: u64,
    /// The number of requests that the server refused.
    pub refusals: u64,
    /// The number of congestion events. Several refusals may belong to one event.
    pub events: u64,
    /// The number of requests that were sent first after a pause, as probes.
    pub probes: u64,
    /// The number of failed compare-exchanges.
    pub lost: u64,
}
