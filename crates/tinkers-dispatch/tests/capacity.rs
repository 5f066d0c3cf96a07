//! Tests of slots, bytes and in-flight permits: the order of admission, and the return of permits.

mod common;

use common::{Bench, SECOND, again, ask, refused, sample, sample_of};
use tinkers_core::{AdmissionRequest, AttemptOutcome, ErrorKind, RouteClass, Sent};
use tinkers_dispatch::{ClassSettings, LimiterSettings};

#[test]
fn slots_are_granted_in_fifo_order() {
    let bench = Bench::sampling(2, 1, 99);
    let mut held: Vec<_> = (0..2).map(|_| bench.admit(sample())).collect();
    let mut queue: Vec<_> = (0..4).map(|_| bench.ask(sample())).collect();
    let mut order = Vec::new();
    for _ in 0..4 {
        held.remove(0).permit.settle(AttemptOutcome::Accepted);
        // The waiters are polled in reverse order, so an unordered queue would admit the last ones.
        for (number, waiting) in queue.iter_mut().enumerate().rev() {
            waiting.poll();
            if let Some(admitted) = waiting.try_admitted() {
                order.push(number);
                held.push(admitted);
            }
        }
    }
    assert_eq!(order, [0, 1, 2, 3]);
}

#[test]
fn byte_limit_is_soft_and_the_first_waiter_is_not_overtaken() {
    let bench = Bench::sampling(9, 10, 99);
    let small = bench.admit(sample_of(9));
    // One byte is left: a large request is admitted and charged in full.
    let large = bench.admit(sample_of(100));
    assert_eq!(bench.sample().bytes, 109);
    let mut head = bench.ask(sample_of(50));
    let mut tiny = bench.ask(sample_of(1));
    let mut free = bench.ask(sample_of(0));
    small.permit.settle(AttemptOutcome::Accepted);
    assert!(head.is_waiting(), "100 of 10 are taken");
    tiny.poll();
    free.poll();
    assert!(
        tiny.is_waiting() && free.is_waiting(),
        "the first waiter is not overtaken"
    );
    large.permit.settle(AttemptOutcome::Accepted);
    let head = head.try_admitted().expect("all came back");
    assert!(tiny.is_waiting(), "50 of 10 are taken");
    head.permit.settle(AttemptOutcome::Unknown);
    tiny.admitted();
    free.admitted();
}

#[test]
fn in_flight_permit_outlives_the_submit_permit() {
    let bench = Bench::sampling(9, 9, 1);
    let first = bench.admit(sample());
    let mut second = bench.ask(sample());
    first.permit.settle(AttemptOutcome::Accepted);
    assert!(second.is_waiting(), "the in-flight permit is held");
    assert_eq!(bench.sample().slots, 0);
    drop(first.in_flight_permit);
    second.admitted();
    bench.assert_all_given_back();
}

#[test]
fn retry_keeps_its_in_flight_permit_and_overtakes_waiting_requests() {
    let bench = Bench::sampling(9, 9, 1);
    let first = bench.admit(sample());
    let mut needs_one = bench.ask(again());
    first.permit.settle(AttemptOutcome::Unknown);
    assert!(needs_one.is_waiting());
    // If the retry waited behind a request that needs an in-flight permit, both would wait for ever.
    let repeat = bench.admit(AdmissionRequest {
        in_flight_permit: Some(first.in_flight_permit),
        ..sample()
    });
    assert_eq!(bench.sample().in_flight, 1);
    repeat.permit.settle(AttemptOutcome::Accepted);
    drop(repeat.in_flight_permit);
    needs_one.admitted();
    bench.assert_all_given_back();
}

#[test]
fn polls_are_not_counted_as_in_flight() {
    let bench = Bench::new(LimiterSettings {
        poll: ClassSettings::slots(1),
        ..LimiterSettings::default()
    });
    let poll = bench.admit(ask(RouteClass::Poll));
    poll.permit.settle(AttemptOutcome::Unknown);
    // The second poll brings the in-flight permit of the previous attempt, like a retry.
    let again = bench.admit(AdmissionRequest {
        in_flight_permit: Some(poll.in_flight_permit),
        ..ask(RouteClass::Poll)
    });
    assert_eq!(bench.state(RouteClass::Poll).in_flight, 0);
    drop(again);
    bench.assert_all_given_back();
}

#[test]
fn control_requests_have_no_limit() {
    let bench = Bench::new(LimiterSettings::default());
    let held: Vec<_> = (0..10_000)
        .map(|_| bench.admit(ask(RouteClass::Control)))
        .collect();
    assert_eq!(held.len(), 10_000);
    assert!(bench.limiter.class_snapshot(RouteClass::Control).is_none());
}

#[test]
fn deadline_ends_the_wait_for_a_slot() {
    let bench = Bench::sampling(1, 1, 9);
    let holder = bench.admit(sample());
    let mut waiting = bench.ask(AdmissionRequest {
        deadline: Some(bench.at(SECOND)),
        ..sample()
    });
    let mut behind = bench.ask(sample());
    assert!(waiting.is_waiting());
    bench.clock.advance(SECOND);
    let error = waiting.error();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(error.sent(), Sent::NotSent);
    assert!(behind.is_waiting());
    drop(holder);
    behind.admitted();
    bench.assert_all_given_back();
}

#[test]
fn request_after_its_deadline_is_not_admitted() {
    let bench = Bench::sampling(1, 1, 9);
    bench.clock.advance(2 * SECOND);
    let deadline = Some(tinkers_core::Timestamp::from_origin(SECOND));
    let error = bench
        .ask(AdmissionRequest {
            deadline,
            ..sample()
        })
        .error();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    bench.assert_all_given_back();
}

#[test]
fn admission_future_dropped_in_any_state_returns_its_permits() {
    // The waiter waits for a slot.
    let bench = Bench::sampling(1, 1, 9);
    let holder = bench.admit(sample_of(5));
    drop(bench.ask(sample_of(5)));
    assert_eq!(bench.sample().waiting, 0);
    drop(holder);
    bench.assert_all_given_back();

    // The waiter is first in the queue of a closed gate: the next waiter takes over the timer.
    let bench = Bench::sampling(1, 1, 9);
    let first = bench.admit(sample_of(5));
    first.permit.settle(refused(Some(SECOND)));
    drop(first.in_flight_permit);
    let head = bench.ask(sample_of(5));
    let mut next = bench.ask(sample_of(5));
    drop(head);
    assert!(next.is_waiting());
    assert_eq!(bench.clock.sleepers(), 1);
    bench.clock.advance(SECOND);
    drop(next.admitted());
    bench.assert_all_given_back();

    // The waiter was granted a slot and is not polled afterwards.
    let bench = Bench::sampling(1, 1, 9);
    let holder = bench.admit(sample_of(5));
    let waiting = bench.ask(sample_of(5));
    let mut behind = bench.ask(sample_of(5));
    drop(holder);
    drop(waiting);
    drop(behind.try_admitted().expect("it is its turn now"));
    bench.assert_all_given_back();

    // The future is never polled.
    use tinkers_core::Admission;
    drop(bench.admission.admit(sample()));
    bench.assert_all_given_back();
}

#[test]
fn dropped_submit_permit_does_not_close_the_gate() {
    let bench = Bench::sampling(1, 1, 9);
    drop(bench.admit(sample()));
    drop(bench.admit(sample()));
    bench.assert_all_given_back();
}

#[test]
fn returned_slot_wakes_only_one_waiting_request() {
    let bench = Bench::sampling(1, 1, 99);
    let holder = bench.admit(sample());
    let mut queue: Vec<_> = (0..50).map(|_| bench.ask(sample())).collect();
    holder.permit.settle(AttemptOutcome::Accepted);
    let woken: usize = queue.iter().map(common::Waiting::wakes).sum();
    assert_eq!(woken, 1);
    queue.remove(0).admitted();
}

#[test]
fn raised_limits_admit_waiting_requests_at_once() {
    let bench = Bench::sampling(1, 1, 1);
    let _holder = bench.admit(sample());
    let mut queue: Vec<_> = (0..3).map(|_| bench.ask(sample())).collect();
    let more = bench.request_limits(LimiterSettings::default());
    let served: Vec<_> = queue
        .iter_mut()
        .map(|waiting| waiting.try_admitted().expect("there is room"))
        .collect();
    // Lower limits take no permits from admitted requests.
    let less = LimiterSettings {
        sample: ClassSettings {
            slots: 0,
            bytes: Some(0),
            max_in_flight: Some(0),
            rate: None,
        },
        ..LimiterSettings::default()
    };
    let less = bench.request_limits(less);
    let mut late = bench.ask(sample());
    drop(served);
    assert!(late.is_waiting());
    // The request for the lower limits is dropped.
    drop(less);
    late.admitted();
    drop((more, _holder));
    bench.assert_all_given_back();
}

#[test]
fn pending_admission_debug_output_names_the_route_class() {
    let bench = Bench::sampling(1, 1, 1);
    let pending = bench.admission.wait(sample()).expect("samples have limits");
    let text = format!("{pending:?}");
    assert!(text.contains("Some(Sample)"), "{text}");
}
