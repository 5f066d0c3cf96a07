//! The client whose limiter is monitored, and the backoffs that the limiter has reported.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tinkers::transport::RouteClass;
use tinkers::{LimiterEvent, LimiterEvents, ServiceClient};

use crate::stopwatch::Stopwatch;

/// The maximum number of backoffs that one run records.
const MAX_PAUSES: usize = 20_000;

/// A shared slot for the client whose limiter is monitored. Clones share the slot.
#[derive(Debug, Clone)]
pub(crate) struct MonitoredClient {
    watch: Stopwatch,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    service: Option<ServiceClient>,
    pauses: Vec<(f64, f64)>,
}

impl MonitoredClient {
    /// Creates an empty slot. Times are recorded relative to the start of the stopwatch `watch`.
    pub(crate) fn new(watch: Stopwatch) -> Self {
        Self {
            watch,
            state: Arc::default(),
        }
    }

    /// Sets the monitored client. All clients share one limiter, so only the first client
    /// subscribes to its events.
    pub(crate) fn set(&self, service: &ServiceClient) {
        let before = self.lock().service.replace(service.clone());
        if before.is_none() {
            let events = service.limiter_events();
            tokio::spawn(self.clone().listen(events));
        }
    }

    pub(crate) fn get(&self) -> Option<ServiceClient> {
        self.lock().service.clone()
    }

    pub(crate) fn clear(&self) {
        let service = self.lock().service.take();
        drop(service);
    }

    /// Returns the backoffs of samples and of training requests. Each backoff is a pair of its
    /// start and its end, in seconds.
    pub(crate) fn pauses(&self) -> Vec<(f64, f64)> {
        self.lock().pauses.clone()
    }

    /// Records the backoffs that the limiter reports, until the limiter is dropped.
    async fn listen(self, mut events: LimiterEvents) {
        while let Some(event) = events.next().await {
            if let LimiterEvent::ClosedUntil {
                class: RouteClass::Sample | RouteClass::Train,
                pause,
                ..
            } = event
            {
                let now = self.watch.elapsed().as_secs_f64();
                let mut state = self.lock();
                if state.pauses.len() < MAX_PAUSES {
                    state.pauses.push((now, now + pause.as_secs_f64()));
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
