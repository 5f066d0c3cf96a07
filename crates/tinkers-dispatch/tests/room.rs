//! Slots, bytes and flights: who is served, in which order, and what comes back.

mod common;

use common::{Bench, SECOND, again, ask, refused, sample, sample_of};
use tinkers_core::{AdmissionRequest, ErrorKind, RouteClass, Sent, Settlement};
use tinkers_dispatch::{ClassSettings, LimiterSettings};

#[test]
fn slots_are_given_in_the_order_of_asking() {
    let bench = Bench::sampling(2, 1, 99);
    let mut held: Vec<_> = (0..2).map(|_| bench.admit(sample())).collect();
    let mut queue: Vec<_> = (0..4).map(|_| bench.ask(sample())).collect();
    let mut order = Vec::new();
    for _ in 0..4 {
        held.remove(0).permit.settle(Settlement::Accepted);
        // The last ones are looked at first, so a queue without order would serve them.
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
fn bytes_are_a_soft_limit_and_the_head_is_never_passed() {
    let bench = Bench::sampling(9, 10, 99);
    let small = bench.admit(sample_of(9));
    // One byte is left: a large one passes and is charged in full.
    let large = bench.admit(sample_of(100));
    assert_eq!(bench.sample().bytes, 109);
    let mut head = bench.ask(sample_of(50));
    let mut tiny = bench.ask(sample_of(1));
    let mut free = bench.ask(sample_of(0));
    small.permit.settle(Settlement::Accepted);
    assert!(head.is_waiting(), "100 of 10 are taken");
    tiny.poll();
    free.poll();
    assert!(tiny.is_waiting() && free.is_waiting(), "not past the head");
    large.permit.settle(Settlement::Accepted);
    let head = head.try_admitted().expect("all came back");
    assert!(tiny.is_waiting(), "50 of 10 are taken");
    head.permit.settle(Settlement::Unknown);
    tiny.admitted();
    free.admitted();
}

#[test]
fn a_flight_lasts_beyond_its_permit() {
    let bench = Bench::sampling(9, 9, 1);
    let first = bench.admit(sample());
    let mut second = bench.ask(sample());
    first.permit.settle(Settlement::Accepted);
    assert!(second.is_waiting(), "the flight goes on");
    assert_eq!(bench.sample().slots, 0);
    drop(first.flight);
    second.admitted();
    bench.assert_all_given_back();
}

#[test]
fn a_kept_flight_is_not_taken_twice_and_goes_before_those_that_need_one() {
    let bench = Bench::sampling(9, 9, 1);
    let first = bench.admit(sample());
    let mut needs_one = bench.ask(again());
    first.permit.settle(Settlement::Unknown);
    assert!(needs_one.is_waiting());
    // Behind the one that needs its flight it would wait for ever, and so would that one.
    let repeat = bench.admit(AdmissionRequest {
        flight: Some(first.flight),
        ..sample()
    });
    assert_eq!(bench.sample().in_flight, 1);
    repeat.permit.settle(Settlement::Accepted);
    drop(repeat.flight);
    needs_one.admitted();
    bench.assert_all_given_back();
}

#[test]
fn lanes_without_a_window_count_no_flights() {
    let bench = Bench::new(LimiterSettings {
        poll: ClassSettings::slots(1),
        ..LimiterSettings::default()
    });
    let poll = bench.admit(ask(RouteClass::Poll));
    poll.permit.settle(Settlement::Unknown);
    // With the flight of before kept, as a repeat does.
    let again = bench.admit(AdmissionRequest {
        flight: Some(poll.flight),
        ..ask(RouteClass::Poll)
    });
    assert_eq!(bench.state(RouteClass::Poll).in_flight, 0);
    drop(again);
    bench.assert_all_given_back();
}

#[test]
fn control_is_without_limit() {
    let bench = Bench::new(LimiterSettings::default());
    let held: Vec<_> = (0..10_000)
        .map(|_| bench.admit(ask(RouteClass::Control)))
        .collect();
    assert_eq!(held.len(), 10_000);
    assert!(bench.limiter.class_snapshot(RouteClass::Control).is_none());
}

#[test]
fn a_deadline_ends_the_wait_for_a_slot() {
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
fn an_ask_whose_deadline_is_past_is_not_served() {
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
fn a_dropped_wait_gives_everything_back_at_each_point() {
    // Waiting for a slot.
    let bench = Bench::sampling(1, 1, 9);
    let holder = bench.admit(sample_of(5));
    drop(bench.ask(sample_of(5)));
    assert_eq!(bench.sample().waiting, 0);
    drop(holder);
    bench.assert_all_given_back();

    // Waiting for the gate, at the head: the next one takes over the watch.
    let bench = Bench::sampling(1, 1, 9);
    let first = bench.admit(sample_of(5));
    first.permit.settle(refused(Some(SECOND)));
    drop(first.flight);
    let head = bench.ask(sample_of(5));
    let mut next = bench.ask(sample_of(5));
    drop(head);
    assert!(next.is_waiting());
    assert_eq!(bench.clock.sleepers(), 1);
    bench.clock.advance(SECOND);
    drop(next.admitted());
    bench.assert_all_given_back();

    // Served and never looked at.
    let bench = Bench::sampling(1, 1, 9);
    let holder = bench.admit(sample_of(5));
    let waiting = bench.ask(sample_of(5));
    let mut behind = bench.ask(sample_of(5));
    drop(holder);
    drop(waiting);
    drop(behind.try_admitted().expect("it is its turn now"));
    bench.assert_all_given_back();

    // Never polled at all.
    use tinkers_core::Admission;
    drop(bench.admission.admit(sample()));
    bench.assert_all_given_back();
}

#[test]
fn a_permit_dropped_unsettled_closes_no_gate() {
    let bench = Bench::sampling(1, 1, 9);
    drop(bench.admit(sample()));
    drop(bench.admit(sample()));
    bench.assert_all_given_back();
}

#[test]
fn one_give_back_wakes_one_waiter() {
    let bench = Bench::sampling(1, 1, 99);
    let holder = bench.admit(sample());
    let mut queue: Vec<_> = (0..50).map(|_| bench.ask(sample())).collect();
    holder.permit.settle(Settlement::Accepted);
    let woken: usize = queue.iter().map(common::Waiting::wakes).sum();
    assert_eq!(woken, 1);
    queue.remove(0).admitted();
}

#[test]
fn more_room_from_a_new_configuration_reaches_those_who_wait() {
    let bench = Bench::sampling(1, 1, 1);
    let _holder = bench.admit(sample());
    let mut queue: Vec<_> = (0..3).map(|_| bench.ask(sample())).collect();
    let more = bench.claim(LimiterSettings::default());
    let served: Vec<_> = queue
        .iter_mut()
        .map(|waiting| waiting.try_admitted().expect("there is room"))
        .collect();
    // Less room takes nothing away from those who have it.
    let less = LimiterSettings {
        sample: ClassSettings {
            slots: 0,
            bytes: Some(0),
            flights: Some(0),
            rate: None,
        },
        ..LimiterSettings::default()
    };
    let less = bench.claim(less);
    let mut late = bench.ask(sample());
    drop(served);
    assert!(late.is_waiting());
    // Nobody asks for it any longer.
    drop(less);
    late.admitted();
    drop((more, _holder));
    bench.assert_all_given_back();
}
