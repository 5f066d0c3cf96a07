//! Tests of the gate of a route class: when a refusal closes it, for how long, and for which requests.

mod common;

use common::{Bench, NANO, SECOND, accept, again, ask, refuse, refused, sample, sample_of};
use std::time::Duration;
use tinkers_core::{AdmissionRequest, ErrorKind, RouteClass, Sent};
use tinkers_dispatch::LimiterSettings;

fn bench() -> Bench {
    Bench::new(LimiterSettings::default())
}

#[test]
fn no_request_is_admitted_before_the_retry_delay_has_passed() {
    let bench = bench();
    let first = bench.admit(sample());
    refuse(first, Some(3 * SECOND));
    let mut waiting = bench.ask(sample());
    bench.clock.advance(3 * SECOND - NANO);
    assert!(waiting.is_waiting());
    waiting.poll();
    assert!(waiting.is_waiting(), "even after a spurious poll");
    let mut late = bench.ask(sample());
    assert!(late.is_waiting());
    bench.clock.advance(NANO);
    let first_request = waiting.admitted();
    assert!(late.is_waiting(), "one request is sent alone");
    accept(first_request);
    late.admitted();
}

#[test]
fn late_success_does_not_open_a_closed_gate() {
    let bench = bench();
    let (straggler, unlucky) = (bench.admit(sample()), bench.admit(sample()));
    refuse(unlucky, Some(2 * SECOND));
    let mut waiting = bench.ask(sample());
    accept(straggler);
    assert!(waiting.is_waiting());
    bench.clock.advance(2 * SECOND - NANO);
    assert!(waiting.is_waiting());
    bench.clock.advance(NANO);
    waiting.admitted();
}

#[test]
fn only_a_longer_retry_delay_extends_the_pause() {
    let bench = bench();
    let permits: Vec<_> = (0..3).map(|_| bench.admit(sample())).collect();
    let mut hints = [5, 2, 9].into_iter();
    let mut settle = |admitted: tinkers_core::Admitted| {
        let hint = hints.next().map(Duration::from_secs);
        refuse(admitted, hint);
        bench.opens_at().since_origin().as_secs()
    };
    let opens: Vec<u64> = permits.into_iter().map(&mut settle).collect();
    assert_eq!(opens, [5, 5, 9]);
}

#[test]
fn waiting_request_stays_queued_if_the_pause_is_extended() {
    let bench = bench();
    let (one, two) = (bench.admit(sample()), bench.admit(sample()));
    refuse(one, Some(SECOND));
    let mut waiting = bench.ask(sample());
    refuse(two, Some(4 * SECOND));
    bench.clock.advance(SECOND);
    assert!(waiting.is_waiting());
    bench.clock.advance(3 * SECOND);
    waiting.admitted();
}

#[test]
fn refusal_without_a_retry_delay_closes_the_gate_for_a_second() {
    for (bytes, closed_for) in [(0, 1), (128 * 1024, 1), (128 * 1024 + 1, 1)] {
        let bench = bench();
        bench.admit(sample_of(bytes)).permit.settle(refused(None));
        let opens_at = bench.opens_at();
        assert_eq!(
            opens_at,
            bench.at(Duration::from_secs(closed_for)),
            "{bytes}"
        );
    }
}

#[test]
fn retry_delay_is_limited_to_the_configured_maximum() {
    let bench = bench();
    bench
        .admit(sample())
        .permit
        .settle(refused(Some(Duration::MAX)));
    assert_eq!(bench.opens_at(), bench.at(15 * 60 * SECOND));
}

#[test]
fn refusal_closes_only_its_class_and_never_control_requests() {
    for refused_class in RouteClass::ALL {
        let bench = bench();
        bench
            .admit(ask(refused_class))
            .permit
            .settle(refused(Some(SECOND)));
        for class in RouteClass::ALL {
            let closed = class == refused_class && class != RouteClass::Control;
            assert_eq!(bench.ask(ask(class)).is_waiting(), closed, "{class:?}");
        }
    }
}

#[test]
fn gate_closed_beyond_the_deadline_fails_a_request_at_once() {
    let bench = bench();
    refuse(bench.admit(sample()), Some(9 * SECOND));
    let error = bench
        .ask(AdmissionRequest {
            deadline: Some(bench.at(9 * SECOND - NANO)),
            ..sample()
        })
        .error();
    assert_eq!(error.kind(), ErrorKind::RateLimited);
    assert_eq!(error.sent(), Sent::NotSent);
    assert_eq!(error.retry_at(), Some(bench.at(9 * SECOND)));
    assert_eq!(error.retry_after(), Some(9 * SECOND));
    // With a deadline one nanosecond later, the request waits and is admitted.
    let waiting = bench.ask(AdmissionRequest {
        deadline: Some(bench.at(9 * SECOND)),
        ..sample()
    });
    bench.clock.advance(9 * SECOND);
    waiting.admitted();
    bench.assert_all_given_back();
}

#[test]
fn waiting_request_fails_at_once_if_the_gate_closes_past_its_deadline() {
    let bench = Bench::sampling(1, 1, 9);
    let holder = bench.admit(sample());
    let mut patient = bench.ask(sample());
    let hurried = bench.ask(AdmissionRequest {
        deadline: Some(bench.at(2 * SECOND)),
        ..sample()
    });
    refuse(holder, Some(3 * SECOND));
    assert_eq!(hurried.error().kind(), ErrorKind::RateLimited);
    assert!(patient.is_waiting());
    bench.clock.advance(3 * SECOND);
    patient.admitted();
}

#[test]
fn refused_request_is_admitted_before_later_requests() {
    let bench = Bench::sampling(1, 1, 9);
    let first = bench.admit(sample());
    let mut newcomer = bench.ask(sample());
    first.permit.settle(refused(Some(SECOND)));
    drop(first.in_flight_permit);
    let mut back = bench.ask(again());
    bench.clock.advance(SECOND);
    // The later request is polled first, but is not admitted first.
    assert!(newcomer.is_waiting());
    let served = back.try_admitted().expect("it goes first");
    assert!(newcomer.is_waiting());
    accept(served);
    newcomer.admitted();
}

#[test]
fn waiting_request_holds_no_permits() {
    let bench = bench();
    let first = bench.admit(sample_of(7));
    first.permit.settle(refused(Some(SECOND)));
    drop(first.in_flight_permit);
    let _waiting: Vec<_> = (0..5).map(|_| bench.ask(sample_of(7))).collect();
    let state = bench.sample();
    assert_eq!(
        (state.waiting, state.slots, state.bytes, state.in_flight),
        (5, 0, 0, 0)
    );
    // Only the first waiter has a timer.
    assert_eq!(bench.clock.sleepers(), 1);
}
