//! A refusal closes a lane until the server's hint; the next request leaves then and not before.

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use tinkers_core::{
    Admission, AdmissionRequest, ClientId, Clock, Cost, ManualClock, Readmission, RouteClass,
    Settlement, SplitMix,
};
use tinkers_dispatch::{Limiter, LimiterSettings};

fn ask() -> AdmissionRequest {
    AdmissionRequest {
        class: RouteClass::Sample,
        client: ClientId(1),
        cost: Cost { bytes: 1000 },
        deadline: None,
        flight: None,
        reentry: Readmission::New,
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
        admitted.permit.settle(Settlement::Refused { hint });
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
