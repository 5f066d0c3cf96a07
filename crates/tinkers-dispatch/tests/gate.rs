//! The gate of a lane: when a refusal closes it, for how long, and for whom.

mod common;

use common::{Bench, NANO, SECOND, accept, again, ask, refuse, refused, sample, sample_of};
use std::time::Duration;
use tinkers_core::{AdmissionRequest, ErrorKind, RouteClass, Sent};
use tinkers_dispatch::LimiterSettings;

fn bench() -> Bench {
    Bench::new(LimiterSettings::default())
}

#[test]
fn nothing_leaves_one_nanosecond_before_the_hint() {
    let bench = bench();
    let first = bench.admit(sample());
    refuse(first, Some(3 * SECOND));
    let mut waiting = bench.ask(sample());
    bench.clock.advance(3 * SECOND - NANO);
    assert!(waiting.is_waiting());
    waiting.poll();
    assert!(waiting.is_waiting(), "also when it is polled without need");
    let mut late = bench.ask(sample());
    assert!(late.is_waiting());
    bench.clock.advance(NANO);
    let probe = waiting.admitted();
    assert!(late.is_waiting(), "one goes first");
    accept(probe);
    late.admitted();
}

#[test]
fn a_straggler_success_does_not_reopen_the_gate() {
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
fn a_shorter_hint_does_not_shorten_and_a_longer_one_extends() {
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
fn a_waiter_sees_an_extension_that_came_while_it_slept() {
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
fn without_a_hint_it_closes_for_a_second_also_when_the_request_is_large() {
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
fn a_hint_beyond_the_longest_closes_for_the_longest() {
    let bench = bench();
    bench
        .admit(sample())
        .permit
        .settle(refused(Some(Duration::MAX)));
    assert_eq!(bench.opens_at(), bench.at(15 * 60 * SECOND));
}

#[test]
fn a_refusal_closes_its_own_class_alone_and_control_never() {
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
fn a_gate_that_opens_beyond_the_deadline_fails_at_once_and_says_when() {
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
    // One nanosecond more, and it waits and goes.
    let waiting = bench.ask(AdmissionRequest {
        deadline: Some(bench.at(9 * SECOND)),
        ..sample()
    });
    bench.clock.advance(9 * SECOND);
    waiting.admitted();
    bench.assert_all_given_back();
}

#[test]
fn who_waits_hears_at_once_that_the_gate_closed_beyond_its_deadline() {
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
fn a_refused_request_goes_before_those_that_came_meanwhile() {
    let bench = Bench::sampling(1, 1, 9);
    let first = bench.admit(sample());
    let mut newcomer = bench.ask(sample());
    first.permit.settle(refused(Some(SECOND)));
    drop(first.flight);
    let mut back = bench.ask(again());
    bench.clock.advance(SECOND);
    // Whoever is polled first: the newcomer was told first, and it is not its turn.
    assert!(newcomer.is_waiting());
    let served = back.try_admitted().expect("it goes first");
    assert!(newcomer.is_waiting());
    accept(served);
    newcomer.admitted();
}

#[test]
fn nothing_is_held_while_asleep() {
    let bench = bench();
    let first = bench.admit(sample_of(7));
    first.permit.settle(refused(Some(SECOND)));
    drop(first.flight);
    let _waiting: Vec<_> = (0..5).map(|_| bench.ask(sample_of(7))).collect();
    let state = bench.sample();
    assert_eq!(
        (state.waiting, state.slots, state.bytes, state.in_flight),
        (5, 0, 0, 0)
    );
    // One alarm for all of them: only the head watches the gate.
    assert_eq!(bench.clock.sleepers(), 1);
}
