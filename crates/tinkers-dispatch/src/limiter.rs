//! The limiter of one endpoint: a lane for each class of requests.

use std::sync::Arc;

use tinkers_core::{
    Admission, AdmissionRequest, Admitted, BoxFuture, ClientId, Clock, Error, Jitter, RouteClass,
    Timestamp,
};
use tinkers_limits::GateState;
use tokio::sync::{Notify, broadcast};

use crate::admit::PendingAdmission;
use crate::claim::{Claims, LimitRequest};
use crate::desk::{Desk, MaxHint};
use crate::event::{LimiterEvent, LimiterEvents};
use crate::lane::Lane;
use crate::settings::{ClassSettings, LimiterSettings};
use crate::snapshot::{ClassSnapshot, LimiterSnapshot};
use crate::sync::{AtomicU64, Ordering};

/// The limits that all clients of one endpoint and key share.
///
/// It has no clock: each client looks at it through [`Limiter::admission`] with its own. Those clocks must agree on their
/// origin, since a refusal that one client saw holds the others back, too.
#[derive(Debug)]
pub struct Limiter {
    lanes: [Arc<Lane>; 4],
    clients: AtomicU64,
    pub(crate) claims: Claims,
    max_hint: Arc<MaxHint>,
    /// In the order of the lanes.
    closures: [Arc<Notify>; 4],
    events: broadcast::Sender<LimiterEvent>,
}

/// The classes that have a lane, in the order of [`Limiter::lanes`]. Control has no limits.
const LANES: [RouteClass; 4] = [
    RouteClass::Sample,
    RouteClass::Train,
    RouteClass::Poll,
    RouteClass::Rest,
];

impl Limiter {
    /// Events that a slow subscriber may be behind before it loses the oldest.
    const EVENTS_KEPT: usize = 256;

    /// A limiter that has let nothing through yet.
    pub fn new(settings: LimiterSettings) -> Self {
        let events = broadcast::Sender::new(Self::EVENTS_KEPT);
        let lane = |class| {
            let settings = lane_settings(&settings, class);
            Arc::new(Lane::new(class, settings, events.clone()))
        };
        Self {
            lanes: LANES.map(lane),
            clients: AtomicU64::new(0),
            claims: Claims::new(settings),
            max_hint: Arc::new(MaxHint::new(settings.max_hint)),
            closures: Default::default(),
            events,
        }
    }

    /// This limiter as a client with the clock `time` sees it; `jitter` is added to what the server says.
    pub fn admission(
        self: &Arc<Self>,
        time: Arc<dyn Clock>,
        jitter: Arc<dyn Jitter>,
    ) -> LimiterAdmission {
        let desk = |at: usize| {
            Arc::new(Desk {
                lane: Arc::clone(&self.lanes[at]),
                closures: Arc::clone(&self.closures[at]),
                time: Arc::clone(&time),
                jitter: Arc::clone(&jitter),
                max_hint: Arc::clone(&self.max_hint),
            })
        };
        LimiterAdmission {
            desks: std::array::from_fn(desk),
        }
    }

    /// Asks for limits for as long as the [`LimitRequest`] is held. What holds is the strictest of all that is asked for; that somebody
    /// asks for something else is told as a warning, since these limits are shared by all clients of one server and key. What
    /// is taken stays taken, and who waits keeps its place.
    pub fn claim(
        self: &Arc<Self>,
        settings: LimiterSettings,
        time: Arc<dyn Clock>,
    ) -> LimitRequest {
        LimitRequest::new(Arc::clone(self), settings, time)
    }

    /// A number for a new client. Counts from 1; 0 is for work without a client.
    pub fn next_client(&self) -> ClientId {
        ClientId(self.clients.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// What the lane of `class` looks like now; `None` for the control lane, which has no limits.
    pub fn class_snapshot(&self, class: RouteClass) -> Option<ClassSnapshot> {
        let at = LANES.iter().position(|lane| *lane == class)?;
        Some(ClassSnapshot::of(&self.lanes[at]))
    }

    /// What every lane looks like now.
    pub fn snapshot(&self) -> LimiterSnapshot {
        let [sample, train, poll, rest] = self.lanes.each_ref().map(|lane| ClassSnapshot::of(lane));
        LimiterSnapshot {
            sample,
            train,
            poll,
            rest,
        }
    }

    /// What happens from now on.
    pub fn events(&self) -> LimiterEvents {
        LimiterEvents::new(self.events.subscribe())
    }

    pub(crate) fn apply(&self, settings: &LimiterSettings, now: Timestamp) {
        self.max_hint.set(settings.max_hint);
        for lane in &self.lanes {
            lane.resize(lane_settings(settings, lane.class), now);
        }
    }
}

fn lane_settings(settings: &LimiterSettings, class: RouteClass) -> ClassSettings {
    match class {
        RouteClass::Sample => settings.sample,
        RouteClass::Train => settings.train,
        RouteClass::Poll => settings.poll,
        _ => settings.rest,
    }
}

/// A limiter with the clock of one client.
#[derive(Debug, Clone)]
pub struct LimiterAdmission {
    desks: [Arc<Desk>; 4],
}

impl LimiterAdmission {
    /// The wait of [`Admission::admit`] without its box; `None` for the control lane, which has no limits. What can go at once
    /// goes at the first poll, without a lock.
    #[inline]
    pub fn wait(&self, ask: AdmissionRequest) -> Option<PendingAdmission> {
        let desk = self.desk(ask.class)?;
        Some(PendingAdmission::new(Arc::clone(desk), ask))
    }

    #[inline]
    fn desk(&self, class: RouteClass) -> Option<&Arc<Desk>> {
        match class {
            RouteClass::Control => None,
            RouteClass::Sample => Some(&self.desks[0]),
            RouteClass::Train => Some(&self.desks[1]),
            RouteClass::Poll => Some(&self.desks[2]),
            _ => Some(&self.desks[3]),
        }
    }
}

impl Admission for LimiterAdmission {
    fn admit(&self, ask: AdmissionRequest) -> BoxFuture<'_, Result<Admitted, Error>> {
        let Some(desk) = self.desk(ask.class) else {
            return Box::pin(std::future::ready(Ok(Admitted::free(ask.flight))));
        };
        if let GateState::ClosedUntil(_) = desk.lane.constraints.gate().state() {
            desk.notify_closure();
        }
        if ask.is_nested {
            let admitted = Arc::clone(desk).admit_nested(ask.flight);
            return Box::pin(std::future::ready(admitted));
        }
        Box::pin(PendingAdmission::new(Arc::clone(desk), ask))
    }

    fn moved(&self, class: RouteClass) -> Option<Timestamp> {
        self.desk(class)?.lane.moved()
    }

    fn closed_until(&self, class: RouteClass) -> Option<Timestamp> {
        match self.desk(class)?.lane.constraints.gate().state() {
            GateState::ClosedUntil(at) => Some(Timestamp::from_origin(at)),
            GateState::Open | GateState::ProbingSince(_) => None,
        }
    }

    fn next_closure(&self, class: RouteClass) -> BoxFuture<'static, ()> {
        match self.desk(class) {
            Some(desk) => Box::pin(Arc::clone(&desk.closures).notified_owned()),
            None => Box::pin(std::future::pending()),
        }
    }
}
