//! Shows that a refusal closes the gate of its route class until the server's retry delay has passed, and that the next request is then
//! admitted.

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use tinkers_core::{
    Admission, AdmissionRequest, AttemptOutcome, ClientId, Clock, Cost, ManualClock, Readmission,
    RouteClass, SplitMix,
};
use tinkers_dispatch::{Limiter, LimiterSettings};

fn ask() -> AdmissionRequest {
    AdmissionRequest {
        class: RouteClass::Sample,
        client: ClientId(1),
        cost: Cost { bytes: 1000 },
        deadline: None,
        in_flight_permit: None,
        readmission: Readmission::New,
        is_nested: false,
    }
}

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() {
    let clock = ManualClock::new();
    let limiter = Arc::new(Limiter::new(LimiterSettings::default()));
    let admission = limiter.admission(Arc::new(clock.clone()), Arc::new(SplitMix::new(1)));
    let mut cx = Context::from_waker(Waker::noop());

    let mut first = admission.admit(ask());
    if let std::task::Poll::Ready(Ok(admitted)) = first.as_mut().poll(&mut cx) {
        let hint = Some(Duration::from_secs(3));
        admitted.permit.settle(AttemptOutcome::Refused { hint });
    }
    let mut second = admission.admit(ask());
    for _ in 0..4 {
        let leaves = second.as_mut().poll(&mut cx).is_ready();
        println!("{:?}: leaves {leaves}", clock.now());
        if leaves {
            return;
        }
        clock.advance(Duration::from_secs(1));
    }
}
