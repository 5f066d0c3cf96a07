//! Tests of the fairness between clients, the order of arrival within a client, and the number of wake-ups.

mod common;

use std::collections::VecDeque;

use common::{Bench, SECOND, Waiting, accept, refuse, sample};
use tinkers_core::{AdmissionRequest, Admitted, Arrival, ClientId, Readmission};
use tinkers_dispatch::{ClassSettings, LimiterSettings};

fn of(client: u64) -> AdmissionRequest {
    AdmissionRequest {
        client: ClientId(client),
        ..sample()
    }
}

/// Ends the request `held`, which has the only slot, and then admits and ends all waiting requests one after another. Returns the clients
/// in the order of admission.
fn drain(held: Admitted, mut queue: Vec<(u64, Waiting)>) -> Vec<u64> {
    let mut held = VecDeque::from([held]);
    let mut order = Vec::new();
    while let Some(admitted) = held.pop_front() {
        accept(admitted);
        queue.retain_mut(|(name, waiting)| {
            let Some(admitted) = waiting.try_admitted() else {
                return true;
            };
            order.push(*name);
            held.push_back(admitted);
            false
        });
    }
    assert!(queue.is_empty(), "{} were forgotten", queue.len());
    order
}

#[test]
fn client_with_many_requests_does_not_delay_other_clients() {
    let bench = Bench::sampling(1, 1, 99);
    let held = bench.admit(of(9));
    let mut queue: Vec<_> = (0..6).map(|n| (10 + n, bench.ask(of(1)))).collect();
    queue.extend((0..2).map(|n| (20 + n, bench.ask(of(2)))));
    queue.extend((0..3).map(|n| (30 + n, bench.ask(of(3)))));
    let order = drain(held, queue);
    assert_eq!(order, [10, 20, 30, 11, 21, 31, 12, 32, 13, 14, 15]);
}

#[test]
fn refused_request_keeps_its_queue_position() {
    let bench = Bench::sampling(2, 1, 99);
    let (one, two) = (bench.admit(of(1)), bench.admit(of(1)));
    let mut early = bench.ask(of(1));
    let mut middle = bench.ask(of(1));
    accept(one);
    let early = early.try_admitted().expect("first of those that wait");
    let late = bench.ask(of(1));
    let arrival = early.arrival;
    refuse(early, Some(SECOND));
    let again = |arrival| AdmissionRequest {
        readmission: Readmission::AfterRefusal(arrival),
        ..of(1)
    };
    let back = bench.ask(again(arrival));
    let very_old = bench.ask(again(Arrival::default()));
    assert!(middle.is_waiting());
    // One slot is left from now on, so that the order is visible.
    let narrow = LimiterSettings {
        sample: ClassSettings::slots(1),
        ..LimiterSettings::default()
    };
    let _narrow = bench.request_limits(narrow);
    bench.clock.advance(SECOND);
    let order = drain(two, vec![(3, middle), (4, late), (2, back), (1, very_old)]);
    assert_eq!(order, [1, 2, 3, 4]);
}

#[test]
fn each_waiting_request_is_woken_once_for_its_admission() {
    let bench = Bench::sampling(8, 1, 8);
    let mut held: VecDeque<_> = (0..8).map(|_| bench.admit(of(1))).collect();
    let mut queue: Vec<_> = (0..500).map(|n| bench.ask(of(n % 7))).collect();
    while let Some(admitted) = held.pop_front() {
        accept(admitted);
        queue.retain_mut(|waiting| match waiting.try_admitted() {
            Some(admitted) => {
                held.push_back(admitted);
                false
            }
            None => true,
        });
    }
    let counts = bench.sample().counts;
    assert_eq!((counts.waits, counts.grants), (500, 508));
    assert_eq!(counts.wakes, 500, "each was woken once, for its grant");
    bench.assert_all_given_back();
}

#[test]
fn strictest_requested_limits_apply_until_their_guard_is_dropped() {
    let bench = Bench::new(LimiterSettings::default());
    let asking = |slots| LimiterSettings {
        rest: ClassSettings::slots(slots),
        ..LimiterSettings::default()
    };
    let allowed = || bench.limiter.snapshot().rest.slots_allowed;
    assert_eq!(allowed(), 16);
    let generous = bench.request_limits(asking(40));
    assert_eq!(allowed(), 40);
    let strict = bench.request_limits(asking(3));
    assert_eq!(allowed(), 3, "not the request that asked first");
    generous.replace(asking(2));
    assert_eq!(allowed(), 2);
    drop(generous);
    assert_eq!(allowed(), 3);
    drop(strict);
    assert_eq!(allowed(), 16);
}
