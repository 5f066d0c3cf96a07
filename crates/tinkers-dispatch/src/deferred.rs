//! Calls of user code that must wait until the lock of a class limiter is released.

use std::task::Waker;
use std::time::Duration;

use tinkers_core::user_code::{catch_panic, wake_all};
use tokio::sync::broadcast;

use crate::events::LimiterEvent;

/// The wakers to call or drop and the events to publish, in order, after the lock of the limiter is released.
#[derive(Debug, Default)]
pub(crate) struct Deferred {
    wakes: Vec<Waker>,
    drops: Option<Waker>,
    events: Vec<LimiterEvent>,
}

impl Deferred {
    pub(crate) fn wake(&mut self, waker: Option<Waker>) {
        self.wakes.extend(waker);
    }

    pub(crate) fn drop(&mut self, waker: Waker) {
        self.drops = Some(waker);
    }

    pub(crate) fn publish(&mut self, event: LimiterEvent) {
        self.events.push(event);
    }

    /// Calls the wakers, then publishes the events. Returns the number of wakers that were called.
    ///
    /// The wakers and log subscribers that run here may belong to other requests. Their panics are caught, so that every waker is called.
    pub(crate) fn run(self, subscribers: &broadcast::Sender<LimiterEvent>) -> u64 {
        let woken = self.wakes.len() as u64;
        wake_all(self.wakes);
        catch_panic(|| drop(self.drops));
        for event in self.events {
            catch_panic(|| {
                // Sending fails only if there are no subscribers.
                let _no_subscribers = subscribers.send(event);
            });
            catch_panic(|| trace(&event));
        }
        woken
    }
}

fn trace(event: &LimiterEvent) {
    match event {
        LimiterEvent::ClosedUntil {
            class,
            pause,
            is_hinted,
            is_first,
        } => tracing::debug!(
            class = class.name(),
            pause_ms = millis(*pause),
            hinted = is_hinted,
            first = is_first,
            "rate limited"
        ),
        LimiterEvent::FirstRequest { class } => {
            tracing::debug!(
                class = class.name(),
                "sending the first request after a pause"
            )
        }
        LimiterEvent::Opened { class } => {
            tracing::debug!(class = class.name(), "requests are accepted again")
        }
        LimiterEvent::WindowChanged { class, limit, why } => tracing::debug!(
            class = class.name(),
            limit,
            why = ?why,
            "in-flight window changed"
        ),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
