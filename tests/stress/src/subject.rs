//! The interface of the limiters under test.

use std::sync::Arc;
use std::time::Duration;

use tinkers_core::{BoxFuture, ManualClock};

/// A limiter under test: the rate limiter of the client library, or a simple limiter with a known
/// bug. It grants at most [`Subject::limit`] permits at the same time.
pub trait Subject: Send + Sync + 'static {
    /// The permit that the limiter grants for one attempt to send a request.
    type Permit: Permit;

    /// Creates a limiter with `limit` permits that reads the time from `clock`.
    fn new(limit: u32, clock: ManualClock) -> Arc<Self>;

    /// Waits for a permit for an attempt to send a request. `retry_state` is the state that the
    /// previous attempt of the same request left.
    fn acquire(
        self: &Arc<Self>,
        client: u64,
        retry_state: RetryStateOf<Self>,
    ) -> BoxFuture<'static, Self::Permit>;

    /// Returns the resources, such as permits and queue positions, that are currently in use in the
    /// limiter.
    fn held(&self) -> HeldResources;

    /// Returns the number of permits that the limiter currently allows to be held.
    fn limit(&self) -> u64;

    /// Returns the statistics of the limiter, or `None` if the limiter keeps none.
    fn counts(&self) -> Option<Counts>;
}

/// The state that an attempt to send a request with the limiter `S` leaves for its retry.
pub type RetryStateOf<S> = <<S as Subject>::Permit as Permit>::RetryState;

/// A permit of a limiter under test. It belongs to one attempt to send a request. Dropping the
/// permit releases it as if the attempt had been aborted.
pub trait Permit: Send + 'static {
    /// The state that an attempt leaves for its retry, such as a position in the queue.
    type RetryState: Default + Send + 'static;

    /// Ends the attempt with the outcome `how`, and releases the permit. Returns the state for a
    /// retry of the attempt.
    fn end(self, how: PermitOutcome) -> Self::RetryState;
}

/// The outcome of an attempt to send a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PermitOutcome {
    /// The server accepted the request. It stays in flight until the caller drops the state that
    /// [`Permit::end`] returns, when the result arrives.
    Accepted,
    /// The server refused the request and asked for the given retry delay.
    Refused(Duration),
    /// No response to the request arrived.
    Unknown,
}

/// The resources that are in use in a limiter. All of them are zero when the limiter is idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeldResources {
    /// The number of send slots in use. A request needs one from its admission until the server
    /// responds.
    pub slots: u64,
    /// The number of bytes of all requests that are being sent.
    pub bytes: u64,
    /// The number of requests that are in flight, from their admission to their result.
    pub in_flight: u64,
    /// The number of waiters in the queue.
    pub waiting: u64,
    /// The number of permits that the limiter has granted to queued waiters whose tasks have not
    /// been polled since, and thus do not have the permit yet.
    pub uncollected: u64,
}

/// The statistics that a limiter keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// The number of permits that the limiter granted.
    pub grants: u64,
    /// The number of attempts that waited in the queue for a permit.
    pub waits: u64,
    /// The number of times that the limiter woke a queued waiter, for any reason.
    pub wakes: u64,
    /// The number of wake-ups that let a queued waiter set a timer, instead of granting it a
    /// permit. The timer revokes a permit that was granted to another waiter which is not polled.
    pub watches: u64,
    /// The number of granted permits that went back unused, because the waiter was dropped or was
    /// not polled in time.
    pub unused: u64,
    /// The number of requests that the server refused with 429.
    pub refusals: u64,
    /// The number of congestion events. A congestion event is a group of 429 responses to requests
    /// that were in flight at the same time.
    pub events: u64,
    /// The number of probes. After a 429 response and its retry delay, the limiter first admits a
    /// single request, which probes whether the server accepts requests again.
    pub probes: u64,
    /// The number of failed compare-exchanges in the limiter, which show that threads contended.
    pub lost: u64,
}
