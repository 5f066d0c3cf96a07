//! The limiter of an endpoint, with one class limiter for each route class.

use std::sync::Arc;

use tinkers_core::{
    Admission, AdmissionRequest, Admitted, BoxFuture, ClientId, Clock, Error, Jitter, RouteClass,
    Timestamp,
};
use tinkers_limits::GateState;
use tokio::sync::{Notify, broadcast};

use crate::class_admission::ClassAdmission;
use crate::class_limiter::ClassLimiter;
use crate::events::{LimiterEvent, LimiterEvents};
use crate::limit_request::{LimitRequest, SharedLimits};
use crate::pending_admission::PendingAdmission;
use crate::settings::LimiterSettings;
use crate::snapshot::{ClassSnapshot, LimiterSnapshot};
use crate::sync::{AtomicU64, Ordering};

/// The rate limits that all clients of one endpoint and API key share.
///
/// The limiter has no clock: each client calls [`Limiter::admission`] with its own clock. All these clocks must have the same origin, since
/// a refusal of one client also holds back the others.
#[derive(Debug)]
pub struct Limiter {
    limits: Arc<SharedLimits>,
    clients: AtomicU64,
    /// The notifiers that wake tasks when a refusal (429 response) closes the gate of a route class. One per class, in the order of
    /// [`CLASSES`].
    closures: [Arc<Notify>; 4],
    events: broadcast::Sender<LimiterEvent>,
}

/// The route classes with limits, in the order of the class limiters. Control requests have no limits.
const CLASSES: [RouteClass; 4] = [
    RouteClass::Sample,
    RouteClass::Train,
    RouteClass::Poll,
    RouteClass::Rest,
];

impl Limiter {
    /// The number of events in the buffer of the event channel. A subscriber that is behind by more events loses the oldest ones.
    const EVENTS_KEPT: usize = 256;

    /// Creates a limiter with these limits. They apply until a client requests other ones with [`Limiter::request_limits`].
    pub fn new(settings: LimiterSettings) -> Self {
        let events = broadcast::Sender::new(Self::EVENTS_KEPT);
        let limiter =
            |class| Arc::new(ClassLimiter::new(class, settings.of(class), events.clone()));
        Self {
            limits: Arc::new(SharedLimits::new(CLASSES.map(limiter), settings)),
            clients: AtomicU64::new(0),
            closures: Default::default(),
            events,
        }
    }

    /// Returns the interface through which a client with the clock `time` asks for admission of its requests. `jitter` determines the
    /// random time that is added to each pause after a refusal (429 response).
    pub fn admission(&self, time: Arc<dyn Clock>, jitter: Arc<dyn Jitter>) -> LimiterAdmission {
        let class_admission = |at: usize| {
            Arc::new(ClassAdmission {
                limiter: Arc::clone(&self.limits.limiters[at]),
                closures: Arc::clone(&self.closures[at]),
                time: Arc::clone(&time),
                jitter: Arc::clone(&jitter),
                max_hint: Arc::clone(&self.limits.max_hint),
            })
        };
        LimiterAdmission {
            classes: std::array::from_fn(class_admission),
        }
    }

    /// Requests limits until the [`LimitRequest`] is dropped. Of each limit, the strictest value that any client requests applies to all
    /// clients of the endpoint and API key. Limits that differ from those of another client are logged as a warning. In-flight permits stay
    /// valid, and waiting requests keep their position.
    pub fn request_limits(&self, settings: LimiterSettings, time: Arc<dyn Clock>) -> LimitRequest {
        LimitRequest::new(Arc::clone(&self.limits), settings, time)
    }

    /// Returns the id of a new client. The first id is 1, since 0 is for requests that belong to no client.
    pub fn next_client(&self) -> ClientId {
        ClientId(self.clients.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Returns the state of a route class, or `None` for [`RouteClass::Control`]: that class has no limits.
    pub fn class_snapshot(&self, class: RouteClass) -> Option<ClassSnapshot> {
        let at = CLASSES.iter().position(|other| *other == class)?;
        Some(ClassSnapshot::of(&self.limits.limiters[at]))
    }

    /// Returns the state of every route class with limits: the gate, the waiting requests, the limits in use, and statistics.
    pub fn snapshot(&self) -> LimiterSnapshot {
        let limiters = self.limits.limiters.each_ref();
        let [sample, train, poll, rest] = limiters.map(|limiter| ClassSnapshot::of(limiter));
        LimiterSnapshot {
            sample,
            train,
            poll,
            rest,
        }
    }

    /// Subscribes to the events of the limiter from now on.
    pub fn events(&self) -> LimiterEvents {
        LimiterEvents::new(self.events.subscribe())
    }
}

/// The interface through which one client asks a [`Limiter`] for admission of its requests, with the client's clock and jitter.
#[derive(Debug, Clone)]
pub struct LimiterAdmission {
    classes: [Arc<ClassAdmission>; 4],
}

impl LimiterAdmission {
    /// Returns the future of [`Admission::admit`] without a box, or `None` for [`RouteClass::Control`]: that class has no limits. If the
    /// limits have room, the first poll of the future admits the request without taking a lock.
    #[inline]
    pub fn wait(&self, request: AdmissionRequest) -> Option<PendingAdmission> {
        let class_admission = self.of(request.class)?;
        Some(PendingAdmission::new(Arc::clone(class_admission), request))
    }

    #[inline]
    fn of(&self, class: RouteClass) -> Option<&Arc<ClassAdmission>> {
        match class {
            RouteClass::Control => None,
            RouteClass::Sample => Some(&self.classes[0]),
            RouteClass::Train => Some(&self.classes[1]),
            RouteClass::Poll => Some(&self.classes[2]),
            _ => Some(&self.classes[3]),
        }
    }
}

impl Admission for LimiterAdmission {
    fn admit(&self, request: AdmissionRequest) -> BoxFuture<'_, Result<Admitted, Error>> {
        let Some(class_admission) = self.of(request.class) else {
            return Box::pin(std::future::ready(Ok(Admitted::free(
                request.in_flight_permit,
            ))));
        };
        if let GateState::ClosedUntil(_) = class_admission.limiter.constraints.gate().state() {
            class_admission.notify_closure();
        }
        if request.is_nested {
            let admitted = Arc::clone(class_admission).admit_nested(request.in_flight_permit);
            return Box::pin(std::future::ready(admitted));
        }
        Box::pin(PendingAdmission::new(Arc::clone(class_admission), request))
    }

    fn last_queue_progress(&self, class: RouteClass) -> Option<Timestamp> {
        self.of(class)?.limiter.last_queue_progress()
    }

    fn closed_until(&self, class: RouteClass) -> Option<Timestamp> {
        match self.of(class)?.limiter.constraints.gate().state() {
            GateState::ClosedUntil(at) => Some(Timestamp::from_origin(at)),
            GateState::Open | GateState::FirstRequestSince(_) => None,
        }
    }

    fn next_closure(&self, class: RouteClass) -> BoxFuture<'static, ()> {
        match self.of(class) {
            Some(class_admission) => {
                Box::pin(Arc::clone(&class_admission.closures).notified_owned())
            }
            None => Box::pin(std::future::pending()),
        }
    }
}

#[cfg(all(test, not(tinkers_loom)))]
mod tests {
    use super::*;

    #[test]
    fn limiter_assigns_client_ids_from_one_on() {
        let limiter = Limiter::new(LimiterSettings::default());
        let ids = [limiter.next_client(), limiter.next_client()];
        assert_eq!(ids, [ClientId(1), ClientId(2)]);
    }
}
