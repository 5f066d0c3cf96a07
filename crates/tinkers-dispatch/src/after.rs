//! What is left to be done when the lock of a lane is free again, since it runs foreign code.

use std::task::Waker;
use std::time::Duration;

use tinkers_core::foreign::contain;
use tokio::sync::broadcast;

use crate::event::LimiterEvent;

/// Wakers to be called or dropped, and events to be told, in order.
#[derive(Debug, Default)]
pub(crate) struct After {
    wakes: Vec<Waker>,
    drops: Option<Waker>,
    events: Vec<LimiterEvent>,
}

impl After {
    pub(crate) fn wake(&mut self, waker: Option<Waker>) {
        self.wakes.extend(waker);
    }

    pub(crate) fn drop(&mut self, waker: Waker) {
        self.drops = Some(waker);
    }

    pub(crate) fn tell(&mut self, event: LimiterEvent) {
        self.events.push(event);
    }

    /// Does it all, the waiters first. Returns how many were woken.
    ///
    /// A waker or a log subscriber that panics does so for the request whose end this is, which may be another one than its own: the
    /// panic goes no further, so that no waiter misses its wake-up.
    pub(crate) fn run(self, subscribers: &broadcast::Sender<LimiterEvent>) -> u64 {
        let woken = self.wakes.len() as u64;
        for waker in self.wakes {
            contain(|| waker.wake());
        }
        contain(|| drop(self.drops));
        for event in self.events {
            // An error says that there are no subscribers.
            let _unheard = subscribers.send(event);
            contain(|| trace(&event));
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
        LimiterEvent::Probing { class } => {
            tracing::debug!(
                class = class.name(),
                "probing whether requests are taken again"
            )
        }
        LimiterEvent::Opened { class } => {
            tracing::debug!(class = class.name(), "requests are taken again")
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
