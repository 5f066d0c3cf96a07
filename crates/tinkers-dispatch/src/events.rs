//! Events and counters of a limiter.

use std::time::Duration;

use tinkers_core::RouteClass;
use tinkers_limits::LimitChange;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use crate::sync::{AtomicU64, Ordering};

/// An event of a limiter that is sent to its subscribers, such as the start of a pause after a 429 response.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum LimiterEvent {
    /// A refusal (429 response) closed the gate of a route class, so that no requests of the class are sent, or extended the time for which
    /// the gate is closed.
    ClosedUntil {
        /// The route class of the refused request.
        class: RouteClass,
        /// The time, from the event on, for which no request of the class is admitted.
        pause: Duration,
        /// Whether the refusal contained a retry delay, which then determines the length of the pause.
        is_hinted: bool,
        /// Whether this is the first refusal of a congestion event. `false` for a refusal of a request that was in flight together with an
        /// earlier refused request.
        is_first: bool,
    },
    /// After a rate-limit pause, one request was admitted, called the first request. The response to it decides whether the gate opens for
    /// other requests.
    FirstRequest {
        /// The route class of the request.
        class: RouteClass,
    },
    /// The gate opened after a rate-limit pause: all requests of the class are admitted again.
    Opened {
        /// The route class of the gate.
        class: RouteClass,
    },
    /// The maximum number of requests in flight has changed.
    WindowChanged {
        /// The route class to which the limit applies.
        class: RouteClass,
        /// The maximum number of requests in flight from now on.
        limit: u32,
        /// The reason for the change.
        why: LimitChange,
    },
}

/// A subscription to the events of a limiter. The events arrive in order.
#[derive(Debug)]
pub struct LimiterEvents {
    events: broadcast::Receiver<LimiterEvent>,
    missed: u64,
}

impl LimiterEvents {
    pub(crate) const fn new(events: broadcast::Receiver<LimiterEvent>) -> Self {
        Self { events, missed: 0 }
    }

    /// Waits for the next event. Returns `None` after the limiter is dropped. If more events are pending than the buffer holds, the oldest
    /// ones are lost, and [`LimiterEvents::missed`] counts them. Cancel safe.
    pub async fn next(&mut self) -> Option<LimiterEvent> {
        loop {
            match self.events.recv().await {
                Ok(event) => return Some(event),
                Err(RecvError::Lagged(missed)) => {
                    self.missed += missed;
                    tracing::warn!(missed, "a subscriber of limiter events lags behind");
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// Returns the number of events that this subscriber has lost because it did not receive them in time.
    pub const fn missed(&self) -> u64 {
        self.missed
    }

    /// Returns the next event if there is one in the buffer. Does not wait.
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

/// Statistics of a route class since the limiter was created: the numbers of admissions, waits, wake-ups and refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ClassCounts {
    /// The number of attempts to send a request that were admitted. Each retry counts as an attempt.
    pub grants: u64,
    /// The number of attempts to send a request that had to wait in the queue.
    pub waits: u64,
    /// The number of times that a waiting request was woken.
    pub wakes: u64,
    /// The number of times that a waiting request was woken only to set a timer, in case the future of an admitted request is never polled
    /// again.
    pub watches: u64,
    /// The number of refusals (429 responses).
    pub refusals: u64,
    /// The number of refusals (429 responses) that contained a retry delay.
    pub hints: u64,
    /// The number of congestion events. A congestion event is a group of refusals of requests that were in flight at the same time.
    pub events: u64,
    /// The number of times that, after a rate-limit pause, a single request was admitted to find out whether the server accepts requests
    /// again.
    pub first_requests: u64,
    /// The number of admitted attempts that were not sent, since a refusal (429 response) had closed the gate after their admission.
    pub held: u64,
    /// The number of requests that were admitted from the queue, but whose future was dropped before it was polled again.
    pub unused: u64,
    /// The number of admissions from the queue that were taken back, since the future of the request was not polled for a second while
    /// other requests waited.
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
    pub(crate) first_requests: Counter,
    pub(crate) held: Counter,
    pub(crate) unused: Counter,
    pub(crate) lapsed: Counter,
}

/// A counter for statistics. No decision depends on the value, so relaxed ordering is enough.
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
            first_requests: self.first_requests.read(),
            held: self.held.read(),
            unused: self.unused.read(),
            lapsed: self.lapsed.read(),
        }
    }
}

#[cfg(all(test, not(tinkers_loom)))]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    #[test]
    fn lagging_event_subscriber_continues_with_the_oldest_event_in_the_buffer() {
        type Next = fn(&mut LimiterEvents) -> Option<LimiterEvent>;
        fn poll_next(events: &mut LimiterEvents) -> Option<LimiterEvent> {
            let mut cx = Context::from_waker(Waker::noop());
            match pin!(events.next()).poll(&mut cx) {
                Poll::Ready(event) => event,
                Poll::Pending => panic!("there are events"),
            }
        }
        for next in [poll_next as Next, LimiterEvents::try_next] {
            let (sender, receiver) = broadcast::channel(2);
            let mut events = LimiterEvents::new(receiver);
            let send = |limits: std::ops::Range<u32>| {
                for limit in limits {
                    let (class, why) = (RouteClass::Sample, LimitChange::Learned);
                    let event = LimiterEvent::WindowChanged { class, limit, why };
                    sender.send(event).expect("there is a subscriber");
                }
            };
            send(0..5);
            assert_eq!(events.missed(), 0);
            let event = next(&mut events);
            assert!(
                matches!(event, Some(LimiterEvent::WindowChanged { limit: 3, .. })),
                "{event:?}"
            );
            assert_eq!(events.missed(), 3);
            // One event is left in the channel, and two more overwrite it.
            send(5..7);
            let event = next(&mut events);
            assert!(
                matches!(event, Some(LimiterEvent::WindowChanged { limit: 5, .. })),
                "{event:?}"
            );
            assert_eq!(events.missed(), 4);
        }
    }
}
