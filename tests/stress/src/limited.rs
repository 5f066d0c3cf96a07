//! The limiter itself: the sample lane, which has all constraints.

use std::sync::Arc;

use tinkers_core::{
    AdmissionRequest, Admitted, Arrival, BoxFuture, ClientId, Cost, FixedJitter, InFlightPermit,
    ManualClock, Readmission, RouteClass, Settlement,
};
use tinkers_dispatch::{ClassSettings, ClassSnapshot, Limiter, LimiterAdmission, LimiterSettings};

use crate::subject::{Counts, End, Held, Permit, Subject};

/// A limiter, and one look at it that all clients of a run share.
#[derive(Debug)]
pub struct Limited {
    limiter: Arc<Limiter>,
    admission: LimiterAdmission,
}

/// Bytes of each request: enough that they are counted, too few to be what limits.
const BYTES: u64 = 100;

impl Limited {
    /// What the sample lane looks like.
    pub fn lane(&self) -> ClassSnapshot {
        self.limiter.snapshot().sample
    }
}

/// A limiter that has `flights` samples in flight at most, and twice as many bytes as those take.
pub fn limiter(flights: u32) -> Arc<Limiter> {
    Arc::new(Limiter::new(LimiterSettings {
        sample: ClassSettings {
            slots: 400,
            bytes: Some(BYTES * u64::from(flights) * 2),
            flights: Some(flights),
            rate: None,
        },
        ..LimiterSettings::default()
    }))
}

/// A sample of `client`.
pub fn ask(client: u64) -> AdmissionRequest {
    AdmissionRequest {
        class: RouteClass::Sample,
        client: ClientId(client),
        cost: Cost { bytes: BYTES },
        deadline: None,
        flight: None,
        reentry: Readmission::New,
        is_nested: false,
    }
}

impl Subject for Limited {
    type Permit = Admission;

    fn new(limit: u32, clock: ManualClock) -> Arc<Self> {
        let limiter = limiter(limit);
        let admission = limiter.admission(Arc::new(clock), Arc::new(FixedJitter(0.0)));
        Arc::new(Self { limiter, admission })
    }

    fn acquire(self: &Arc<Self>, client: u64, kept: Kept) -> BoxFuture<'static, Admission> {
        let ask = AdmissionRequest {
            flight: kept.flight,
            reentry: kept
                .arrival
                .map_or(Readmission::New, Readmission::AfterRefusal),
            ..ask(client)
        };
        let wait = self.admission.wait(ask).expect("samples have a lane");
        Box::pin(async { Admission(wait.await.expect("without a deadline nothing fails")) })
    }

    fn held(&self) -> Held {
        held(&self.lane())
    }

    fn limit(&self) -> u64 {
        let lane = self.lane();
        lane.limit.min(lane.slots_allowed).into()
    }

    fn counts(&self) -> Option<Counts> {
        let lane = self.lane();
        Some(Counts {
            grants: lane.counts.grants,
            waits: lane.counts.waits,
            wakes: lane.counts.wakes,
            watches: lane.counts.watches,
            unused: lane.counts.unused + lane.counts.lapsed,
            refusals: lane.counts.refusals,
            events: lane.counts.events,
            probes: lane.counts.probes,
            lost: lane.contention,
        })
    }
}

/// What a lane holds.
pub fn held(lane: &ClassSnapshot) -> Held {
    Held {
        slots: lane.slots.into(),
        bytes: lane.bytes,
        in_flight: lane.in_flight.into(),
        waiting: lane.waiting as u64,
        uncollected: lane.uncollected as u64,
    }
}

/// An admitted sample.
#[derive(Debug)]
pub struct Admission(Admitted);

/// What an attempt leaves.
#[derive(Debug, Default)]
pub struct Kept {
    flight: Option<InFlightPermit>,
    arrival: Option<Arrival>,
}

impl Permit for Admission {
    type Kept = Kept;

    fn end(self, how: End) -> Kept {
        let Admitted {
            permit,
            flight,
            arrival,
        } = self.0;
        match how {
            End::Accepted => permit.settle(Settlement::Accepted),
            End::Unknown => permit.settle(Settlement::Unknown),
            End::Refused(hint) => {
                permit.settle(Settlement::Refused { hint: Some(hint) });
                drop(flight);
                return Kept {
                    flight: None,
                    arrival: Some(arrival),
                };
            }
        }
        Kept {
            flight: Some(flight),
            arrival: None,
        }
    }
}
