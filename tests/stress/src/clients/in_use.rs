//! The client that is asked how things stand, and the pauses that its limiter told of.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tinkers::transport::RouteClass;
use tinkers::{LimiterEvent, LimiterEvents, ServiceClient};

use crate::watch::Stopwatch;

/// So many pauses are kept.
const KEPT: usize = 20_000;

/// A client in use, for whoever watches. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct InUse {
    watch: Stopwatch,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    service: Option<ServiceClient>,
    pauses: Vec<(f64, f64)>,
}

impl InUse {
    /// Nobody yet; times are those of `watch`.
    pub(crate) fn new(watch: Stopwatch) -> Self {
        Self {
            watch,
            state: Arc::default(),
        }
    }

    /// This client, from now on. All clients share their limits, so the pauses are heard of from the first.
    pub(crate) fn show(&self, service: &ServiceClient) {
        let before = self.lock().service.replace(service.clone());
        if before.is_none() {
            let events = service.limiter_events();
            tokio::spawn(self.clone().listen(events));
        }
    }

    pub(crate) fn look(&self) -> Option<ServiceClient> {
        self.lock().service.clone()
    }

    pub(crate) fn forget(&self) {
        let service = self.lock().service.take();
        drop(service);
    }

    /// When samples or training requests were held back: from, to, in seconds.
    pub(crate) fn pauses(&self) -> Vec<(f64, f64)> {
        self.lock().pauses.clone()
    }

    /// Ends with the limiter.
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
                if state.pauses.len() < KEPT {
                    state.pauses.push((now, now + pause.as_secs_f64()));
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
