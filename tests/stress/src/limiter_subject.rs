//! The limiter of tinkers as the limiter under test. Its route class `Sample` is used, because this
//! class has every kind of limit.

use std::sync::Arc;

use tinkers_core::{
    AdmissionRequest, Admitted, Arrival, AttemptOutcome, BoxFuture, ClientId, Cost, FixedJitter,
    InFlightPermit, ManualClock, Readmission, RouteClass,
};
use tinkers_dispatch::{ClassSettings, ClassSnapshot, Limiter, LimiterAdmission, LimiterSettings};

use crate::subject::{Counts, HeldResources, Permit, PermitOutcome, Subject};

/// The rate limiter of the client library, as a limiter under test. All clients of a run share it.
#[derive(Debug)]
pub struct LimiterSubject {
    limiter: Arc<Limiter>,
    admission: LimiterAdmission,
}

/// The size of each request in bytes. The rate limiter counts the bytes, but its limit on bytes is
/// so high that the limit on requests in flight is always reached first.
const BYTES: u64 = 100;

impl LimiterSubject {
    /// Returns a snapshot of the rate limiter's state for sample requests.
    pub fn class(&self) -> ClassSnapshot {
        self.limiter.snapshot().sample
    }
}

/// Creates a rate limiter that allows at most `max_in_flight` samples in flight. Its limit on bytes
/// is twice as high as these samples need.
pub fn limiter(max_in_flight: u32) -> Arc<Limiter> {
    Arc::new(Limiter::new(LimiterSettings {
        sample: ClassSettings {
            slots: 400,
            bytes: Some(BYTES * u64::from(max_in_flight) * 2),
            max_in_flight: Some(max_in_flight),
            rate: None,
        },
        ..LimiterSettings::default()
    }))
}

/// Returns the request with which the client with the id `client` asks the rate limiter to admit a
/// sample.
pub fn sample_request(client: u64) -> AdmissionRequest {
    AdmissionRequest {
        class: RouteClass::Sample,
        client: ClientId(client),
        cost: Cost { bytes: BYTES },
        deadline: None,
        in_flight_permit: None,
        readmission: Readmission::New,
        is_nested: false,
    }
}

impl Subject for LimiterSubject {
    type Permit = Admission;

    fn new(limit: u32, clock: ManualClock) -> Arc<Self> {
        let limiter = limiter(limit);
        let admission = limiter.admission(Arc::new(clock), Arc::new(FixedJitter(0.0)));
        Arc::new(Self { limiter, admission })
    }

    fn acquire(
        self: &Arc<Self>,
        client: u64,
        retry_state: RetryState,
    ) -> BoxFuture<'static, Admission> {
        let request = AdmissionRequest {
            in_flight_permit: retry_state.in_flight_permit,
            readmission: retry_state
                .arrival
                .map_or(Readmission::New, Readmission::AfterRefusal),
            ..sample_request(client)
        };
        let wait = self.admission.wait(request).expect("samples are limited");
        Box::pin(async {
            Admission(
                wait.await
                    .expect("admission without a deadline does not fail"),
            )
        })
    }

    fn held(&self) -> HeldResources {
        held(&self.class())
    }

    fn limit(&self) -> u64 {
        let class = self.class();
        let limit = class.limit.unwrap_or(u32::MAX);
        limit.min(class.slots_allowed).into()
    }

    fn counts(&self) -> Option<Counts> {
        let class = self.class();
        Some(Counts {
            grants: class.counts.grants,
            waits: class.counts.waits,
            wakes: class.counts.wakes,
            watches: class.counts.watches,
            unused: class.counts.unused + class.counts.lapsed,
            refusals: class.counts.refusals,
            events: class.counts.events,
            probes: class.counts.first_requests,
            lost: class.contention,
        })
    }
}

/// Returns the resources, such as permits, that are in use in the rate limiter for one class of
/// requests, according to the snapshot `class`.
pub fn held(class: &ClassSnapshot) -> HeldResources {
    HeldResources {
        slots: class.slots.into(),
        bytes: class.bytes,
        in_flight: class.in_flight.into(),
        waiting: class.waiting as u64,
        uncollected: class.uncollected as u64,
    }
}

/// The rate limiter's admission of a sample. It holds a send slot and an in-flight permit.
#[derive(Debug)]
pub struct Admission(Admitted);

/// The state that an attempt to send a request leaves for its retry: an in-flight permit or a
/// position in the queue.
#[derive(Debug, Default)]
pub struct RetryState {
    in_flight_permit: Option<InFlightPermit>,
    arrival: Option<Arrival>,
}

impl Permit for Admission {
    type RetryState = RetryState;

    fn end(self, how: PermitOutcome) -> RetryState {
        let Admitted {
            permit,
            in_flight_permit,
            arrival,
        } = self.0;
        match how {
            PermitOutcome::Accepted => permit.settle(AttemptOutcome::Accepted),
            PermitOutcome::Unknown => permit.settle(AttemptOutcome::Unknown),
            PermitOutcome::Refused(hint) => {
                permit.settle(AttemptOutcome::Refused { hint: Some(hint) });
                drop(in_flight_permit);
                return RetryState {
                    in_flight_permit: None,
                    arrival: Some(arrival),
                };
            }
        }
        RetryState {
            in_flight_permit: Some(in_flight_permit),
            arrival: None,
        }
    }
}
