//! The client whose limiter is monitored, and the backoffs that the limiter has reported.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tinkers::transport::RouteClass;
use tinkers::{LimiterEvent, LimiterEvents, ServiceClient};

use crate::stopwatch::Stopwatch;

/// The maximum number of backoffs (pauses of the rate limiter after a 429 response) that a run
/// records for the report.
const MAX_PAUSES: usize = 20_000;

/// Holds a client through which a run observes the rate limiter that all clients share. Also
/// records the pauses of the limiter. Clones share the state.
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
    /// Creates a value without a client. The times of recorded backoffs are relative to the start
    /// of the stopwatch `watch`.
    pub(crate) fn new(watch: Stopwatch) -> Self {
        Self {
            watch,
            state: Arc::default(),
        }
    }

    /// Sets the client through which the rate limiter is observed. All clients share one rate
    /// limiter, so only the first client subscribes to the events of the rate limiter.
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

    /// Returns the recorded backoffs: the pauses of sample and training requests after 429
    /// responses. Each backoff is a pair of its start and its end, in seconds since the start of
    /// the stopwatch.
    pub(crate) fn pauses(&self) -> Vec<(f64, f64)> {
        self.lock().pauses.clone()
    }

    /// Records each backoff (pause after a 429 response) that the rate limiter reports, until the
    /// limiter is dropped.
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
