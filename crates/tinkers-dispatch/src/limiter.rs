//! The limiter of one endpoint: a lane for each class of requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tinkers_core::{
    Admission, Admitted, Ask, BoxFuture, ClientId, Error, Flight, RouteClass, SubmitPermit, Time,
};

use crate::admit::Admit;
use crate::lane::{Lane, LaneState};
use crate::settings::LimiterSettings;

/// The limits that all clients of one endpoint and key share.
///
/// It has no clock: each client looks at it through [`Limiter::admission`] with its own. Those clocks must agree on their
/// origin, since a refusal that one client saw holds the others back, too.
#[derive(Debug)]
pub struct Limiter {
    sample: Arc<Lane>,
    train: Arc<Lane>,
    poll: Arc<Lane>,
    rest: Arc<Lane>,
    clients: AtomicU64,
}

impl Limiter {
    /// A limiter that has let nothing through yet.
    pub fn new(settings: LimiterSettings) -> Self {
        let lane = |class, lane| Arc::new(Lane::new(class, lane, settings.max_hint));
        Self {
            sample: lane(RouteClass::Sample, settings.sample),
            train: lane(RouteClass::Train, settings.train),
            poll: lane(RouteClass::Poll, settings.poll),
            rest: lane(RouteClass::Rest, settings.rest),
            clients: AtomicU64::new(0),
        }
    }

    /// Other limits from now on, such as those that a server's configuration names. What is taken stays taken, and who waits
    /// keeps its place; `max_hint` stays what it was.
    pub fn configure(&self, settings: LimiterSettings) {
        self.sample.pool.resize(settings.sample);
        self.train.pool.resize(settings.train);
        self.poll.pool.resize(settings.poll);
        self.rest.pool.resize(settings.rest);
    }

    /// This limiter as a client with the clock `time` sees it.
    pub fn admission(self: &Arc<Self>, time: Arc<dyn Time>) -> LimiterAdmission {
        LimiterAdmission {
            limiter: Arc::clone(self),
            time,
        }
    }

    /// A number for a new client. Counts from 1; 0 is for work without a client.
    pub fn next_client(&self) -> ClientId {
        ClientId(self.clients.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// What the lane of `class` looks like now; `None` for the control lane, which has no limits.
    pub fn state(&self, class: RouteClass) -> Option<LaneState> {
        self.lane(class).map(|lane| lane.state())
    }

    fn lane(&self, class: RouteClass) -> Option<&Arc<Lane>> {
        match class {
            RouteClass::Sample => Some(&self.sample),
            RouteClass::Train => Some(&self.train),
            RouteClass::Poll => Some(&self.poll),
            RouteClass::Control => None,
            _ => Some(&self.rest),
        }
    }
}

/// A limiter with the clock of one client.
#[derive(Debug, Clone)]
pub struct LimiterAdmission {
    limiter: Arc<Limiter>,
    time: Arc<dyn Time>,
}

impl Admission for LimiterAdmission {
    fn admit(&self, ask: Ask) -> BoxFuture<'_, Result<Admitted, Error>> {
        match self.limiter.lane(ask.class) {
            Some(lane) => Box::pin(Admit::new(Arc::clone(lane), Arc::clone(&self.time), ask)),
            None => Box::pin(std::future::ready(Ok(Admitted {
                permit: SubmitPermit::new(|_| {}),
                flight: ask.flight.unwrap_or(Flight::free()),
            }))),
        }
    }
}
