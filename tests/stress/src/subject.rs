//! What is put to the test: anything that lets a bounded number in and has others wait.

use std::sync::Arc;
use std::time::Duration;

use tinkers_core::{BoxFuture, ManualClock};

/// Lets at most [`Subject::limit`] in at once.
pub trait Subject: Send + Sync + 'static {
    /// What whoever is let in holds.
    type Permit: Permit;

    /// One that lets `limit` in, on `clock`.
    fn new(limit: u32, clock: ManualClock) -> Arc<Self>;

    /// Waits for its turn. `kept` is what an earlier attempt left.
    fn acquire(
        self: &Arc<Self>,
        client: u64,
        kept: KeptBy<Self>,
    ) -> BoxFuture<'static, Self::Permit>;

    /// What is taken now, and who waits.
    fn held(&self) -> Held;

    /// How many may be let in at once now.
    fn limit(&self) -> u64;

    /// What it counted itself, where it counts.
    fn counts(&self) -> Option<Counts>;
}

/// What an attempt at `S` leaves for the next.
pub type KeptBy<S> = <<S as Subject>::Permit as Permit>::Kept;

/// Room that was taken. Dropped, it is given back as given up.
pub trait Permit: Send + 'static {
    /// What an attempt leaves for the next.
    type Kept: Default + Send + 'static;

    /// Ends the attempt.
    fn end(self, how: End) -> Self::Kept;
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was taken. What is kept is to be dropped when its result is there.
    Accepted,
    /// It was refused; nothing may go for so long.
    Refused(Duration),
    /// There was no answer.
    Unknown,
}

/// What is taken and who waits. All zero when nobody is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// Requests being sent.
    pub slots: u64,
    /// Bytes being sent.
    pub bytes: u64,
    /// Requests from admission to result.
    pub in_flight: u64,
    /// Those who wait.
    pub waiting: u64,
    /// Those who were let in and have not noticed.
    pub uncollected: u64,
}

/// What a subject counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Attempts that were let in.
    pub grants: u64,
    /// Attempts that had to wait.
    pub waits: u64,
    /// Times that somebody who waits was woken.
    pub wakes: u64,
    /// Wakes that only have one waiter watch grants that are not collected.
    pub watches: u64,
    /// Attempts that were let in and not begun: their waiter was dropped, or did not come in time.
    pub unused: u64,
    /// Refusals that it was told.
    pub refusals: u64,
    /// Congestion events that these made.
    pub events: u64,
    /// Attempts that went alone after a pause.
    pub probes: u64,
    /// Exchanges that one thread lost to another.
    pub lost: u64,
}
