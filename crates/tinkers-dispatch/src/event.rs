//! What happens in a lane, as values: a stream of events, and counters.

use std::time::Duration;

use tinkers_core::RouteClass;
use tinkers_limits::Change;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use crate::sync::{AtomicU64, Ordering};

/// Something that happened in a lane of a limiter.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum LimiterEvent {
    /// A refusal closed the gate, or closed it for longer.
    ClosedUntil {
        /// The lane.
        class: RouteClass,
        /// How long nothing goes, from now.
        pause: Duration,
        /// Whether the server said how long.
        is_hinted: bool,
        /// Whether it is a congestion event of its own, and not one more refusal of the same moment.
        is_first: bool,
    },
    /// A request goes alone to find out whether the server takes requests again.
    Probing {
        /// The lane.
        class: RouteClass,
    },
    /// Everything goes again.
    Opened {
        /// The lane.
        class: RouteClass,
    },
    /// The in-flight window has another limit.
    WindowChanged {
        /// The lane.
        class: RouteClass,
        /// Requests that may be in flight now.
        limit: u32,
        /// Why.
        why: Change,
    },
}

/// The events of a limiter from a moment on, in order.
#[derive(Debug)]
pub struct LimiterEvents {
    events: broadcast::Receiver<LimiterEvent>,
    missed: u64,
}

impl LimiterEvents {
    pub(crate) const fn new(events: broadcast::Receiver<LimiterEvent>) -> Self {
        Self { events, missed: 0 }
    }

    /// Waits for the next event; `None` after the end of the limiter. A subscriber that is far behind goes on with the oldest event
    /// that is still there. Cancel-safe.
    pub async fn next(&mut self) -> Option<LimiterEvent> {
        loop {
            match self.events.recv().await {
                Ok(event) => return Some(event),
                Err(RecvError::Lagged(missed)) => {
                    self.missed += missed;
                    tracing::warn!(missed, "a subscriber of limiter events is behind");
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// How many events this subscriber was too far behind for, so far.
    pub const fn missed(&self) -> u64 {
        self.missed
    }

    /// The next event, when there is one already.
    pub fn try_next(&mut self) -> Option<LimiterEvent> {
        loop {
            match self.events.try_recv() {
                Ok(event) => return Some(event),
                Err(TryRecvError::Lagged(missed)) => self.missed += missed,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
            }
        }
    }
}

/// How often something happened in a lane since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ClassCounts {
    /// Attempts that were let through.
    pub grants: u64,
    /// Attempts that had to wait before they were.
    pub waits: u64,
    /// Times that somebody who waits was woken.
    pub wakes: u64,
    /// Those of the wakes that only have a waiter look at a time, for the case that all grants stay uncollected.
    pub watches: u64,
    /// Attempts that the server refused for their rate.
    pub refusals: u64,
    /// Refusals that said when to come back.
    pub hints: u64,
    /// Refusals that began a congestion event.
    pub events: u64,
    /// Attempts that went alone after a pause.
    pub probes: u64,
    /// Attempts that were let through and did not leave, since the gate had closed by then.
    pub held: u64,
    /// Grants whose waiter was dropped before it collected them.
    pub unused: u64,
    /// Grants that were taken back, since their owner was not polled for a second while others waited.
    pub lapsed: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) grants: Counter,
    pub(crate) waits: Counter,
    pub(crate) wakes: Counter,
    pub(crate) watches: Counter,
    pub(crate) refusals: Counter,
    pub(crate) hints: Counter,
    pub(crate) events: Counter,
    pub(crate) probes: Counter,
    pub(crate) held: Counter,
    pub(crate) unused: Counter,
    pub(crate) lapsed: Counter,
}

/// Counts up. No decision depends on it, so it orders nothing.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    pub(crate) fn read(&self) -> ClassCounts {
        ClassCounts {
            grants: self.grants.read(),
            waits: self.waits.read(),
            wakes: self.wakes.read(),
            watches: self.watches.read(),
            refusals: self.refusals.read(),
            hints: self.hints.read(),
            events: self.events.read(),
            probes: self.probes.read(),
            held: self.held.read(),
            unused: self.unused.read(),
            lapsed: self.lapsed.read(),
        }
    }
}

#[cfg(all(test, not(tinkers_loom)))]
mod tests {
    use super::*;

    #[test]
    fn who_is_behind_goes_on_with_the_oldest_and_sees_how_many_are_missing() {
        let (sender, receiver) = broadcast::channel(2);
        let mut events = LimiterEvents::new(receiver);
        let class = RouteClass::Sample;
        for limit in 0..5 {
            let why = Change::Learned;
            let event = LimiterEvent::WindowChanged { class, limit, why };
            sender.send(event).expect("somebody listens");
        }
        assert_eq!(events.missed(), 0);
        let next = events.try_next();
        assert!(
            matches!(next, Some(LimiterEvent::WindowChanged { limit: 3, .. })),
            "{next:?}"
        );
        assert_eq!(events.missed(), 3);
    }
}
