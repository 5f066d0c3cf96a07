//! What happens between a grant and the socket: grants that are collected late or never, requests that wait for a connection, and
//! responses whose body is slow.

mod common;

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, StatusCode};
use tinkers_core::{
    AdmissionRequest, ClientId, Departure, ErrorKind, InFlightPermit, RouteClass, Settlement,
};
use tinkers_dispatch::{Gate, LimiterSettings};

use common::{Bench, SECOND, accept, ask, refuse, refused, sample};

fn of(client: u64, flight: Option<InFlightPermit>) -> AdmissionRequest {
    AdmissionRequest {
        client: ClientId(client),
        flight,
        ..sample()
    }
}

fn nested() -> AdmissionRequest {
    AdmissionRequest {
        is_nested: true,
        ..sample()
    }
}

/// The head of a 429 arrives.
fn refusal_head(departure: &Departure, retry_after: Option<&'static str>) {
    let mut headers = HeaderMap::new();
    if let Some(seconds) = retry_after {
        headers.insert("retry-after", HeaderValue::from_static(seconds));
    }
    let wall = SystemTime::UNIX_EPOCH;
    departure.head(StatusCode::TOO_MANY_REQUESTS, &headers, wall);
}

#[test]
fn grant_collected_after_a_refusal_waits_for_the_hint() {
    let bench = Bench::sampling(2, 1000, 99);
    let (one, two) = (bench.admit(sample()), bench.admit(sample()));
    let mut waiting = bench.ask(sample());
    // Its slot is handed to the third, which is not polled yet when the gate closes for a minute.
    accept(one);
    refuse(two, Some(60 * SECOND));
    bench.clock.advance(30 * SECOND);
    assert!(waiting.try_admitted().is_none());
    assert_eq!(bench.sample().slots, 0, "its slot was given back");
    bench.clock.advance(31 * SECOND);
    let probe = waiting.try_admitted().expect("the hint has passed");
    accept(probe);
    bench.assert_all_given_back();
}

#[test]
fn grant_that_is_never_collected_lapses_for_other_clients() {
    let bench = Bench::sampling(1, 1000, 99);
    let held = bench.admit(of(0, None));
    let mut stuck = bench.ask(of(1, None));
    let mut other = bench.ask(of(2, None));
    accept(held);
    assert!(other.try_admitted().is_none(), "the first was let through");
    bench.clock.advance(2 * SECOND);
    let went = other.try_admitted().expect("the grant has lapsed");
    assert_eq!(bench.sample().counts.lapsed, 1);
    // Its owner comes back: it waits at its old place, and loses nothing.
    assert!(stuck.try_admitted().is_none());
    accept(went);
    accept(stuck.try_admitted().expect("there is room again"));
    bench.assert_all_given_back();
}

#[test]
fn retries_that_kept_their_flight_take_turns_between_clients() {
    let bench = Bench::sampling(1, 1000, 99);
    let held = bench.admit(of(1, None));
    held.permit.settle(Settlement::Unknown);
    let mut current = bench.admit(of(1, None));
    let mut flight = Some(held.flight);
    let mut other = bench.ask(of(2, None));
    for round in 0..3 {
        let mut retry = bench.ask(of(1, flight.take()));
        assert!(retry.is_waiting());
        current.permit.settle(Settlement::Unknown);
        flight = Some(current.flight);
        if let Some(admitted) = other.try_admitted() {
            drop((admitted, retry, flight));
            bench.assert_all_given_back();
            return;
        }
        current = retry.try_admitted().expect("the retry goes first");
        assert!(round < 2, "one client takes every turn");
    }
}

#[test]
fn retry_with_a_flight_passes_a_request_that_needs_one() {
    let bench = Bench::sampling(2, 1000, 1);
    let held = bench.admit(of(1, None));
    held.permit.settle(Settlement::Unknown);
    let blocked = bench.ask(of(2, None));
    let retry = bench.ask(of(1, Some(held.flight)));
    accept(retry.admitted());
    accept(blocked.admitted());
    bench.assert_all_given_back();
}

#[test]
fn polls_ramp_up_after_a_pause() {
    let bench = Bench::new(LimiterSettings::default());
    let poll = || ask(RouteClass::Poll);
    refuse(bench.admit(poll()), Some(SECOND));
    let mut queue: Vec<_> = (0..3000).map(|_| bench.ask(poll())).collect();
    bench.clock.advance(SECOND);
    let mut held: Vec<_> = queue
        .iter_mut()
        .filter_map(|poll| poll.try_admitted())
        .collect();
    assert_eq!(held.len(), 1, "a probe");
    accept(held.pop().expect("the probe"));
    // The server holds every poll from now on: no answer tells that they are taken.
    let mut bursts = Vec::new();
    while held.len() < 2999 {
        let before = held.len();
        held.extend(queue.iter_mut().filter_map(|poll| poll.try_admitted()));
        let burst = held.len() - before;
        assert!(burst <= before.max(8), "{burst} together after {before}");
        bursts.extend((burst > 0).then_some(burst));
        assert!(bursts.len() < 20, "it does not go on: {bursts:?}");
        bench.clock.advance(Duration::from_millis(250));
    }
    held.into_iter().for_each(accept);
    drop(queue);
    bench.assert_all_given_back();
}

#[test]
fn request_on_its_way_to_the_socket_is_held_by_a_refusal() {
    let bench = Bench::sampling(3, 1000, 99);
    let (mut late, refusal) = (bench.admit(sample()), bench.admit(sample()));
    let departure = late.permit.departure();
    assert!(departure.may_leave());
    refuse(refusal, Some(SECOND));
    assert!(!departure.may_leave());
    // The gate opens again. What was let through before it closed would go past those that wait.
    bench.clock.advance(2 * SECOND);
    let mut probe = bench.admit(sample());
    assert!(probe.permit.departure().may_leave());
    assert!(!departure.may_leave(), "while the probe is under way");
    accept(probe);
    assert_eq!(bench.sample().gate, Gate::Open);
    assert!(!departure.may_leave(), "after the probe");
    assert_eq!(bench.sample().counts.held, 3);
    drop(late);
    bench.assert_all_given_back();
}

#[test]
fn head_of_a_refusal_closes_the_gate_before_its_body() {
    let bench = Bench::sampling(3, 1000, 99);
    let mut refusal = bench.admit(sample());
    let departure = refusal.permit.departure();
    refusal_head(&departure, Some("30"));
    let now = bench.at(Duration::ZERO);
    assert_eq!(bench.opens_at().since(now), 30 * SECOND);
    // The body comes ten seconds later: the refusal is one, and its hint counts from the head.
    bench.clock.advance(10 * SECOND);
    refuse(refusal, Some(30 * SECOND));
    let counts = bench.sample().counts;
    assert_eq!((counts.refusals, counts.events), (1, 1));
    bench.assert_all_given_back();
}

#[test]
fn hint_in_the_body_of_a_refusal_extends_the_pause() {
    let bench = Bench::sampling(3, 1000, 99);
    let mut refusal = bench.admit(sample());
    let departure = refusal.permit.departure();
    refusal_head(&departure, None);
    let now = bench.at(Duration::ZERO);
    assert_eq!(bench.opens_at().since(now), SECOND);
    refusal.permit.settle(refused(Some(20 * SECOND)));
    drop(refusal.flight);
    assert_eq!(bench.opens_at().since(now), 20 * SECOND);
    let counts = bench.sample().counts;
    assert_eq!((counts.refusals, counts.events), (1, 1));
    bench.assert_all_given_back();
}

#[test]
fn nested_request_goes_where_all_slots_are_taken() {
    let bench = Bench::sampling(1, 10, 1);
    let outer = bench.admit(sample());
    let waiting = bench.ask(sample());
    accept(bench.admit(nested()));
    accept(outer);
    accept(waiting.admitted());
    bench.assert_all_given_back();
}

#[test]
fn nested_request_fails_at_once_behind_a_closed_gate() {
    let bench = Bench::sampling(2, 10, 9);
    let outer = bench.admit(sample());
    refuse(bench.admit(sample()), Some(60 * SECOND));
    let error = bench.ask(nested()).error();
    assert_eq!(error.kind(), ErrorKind::RateLimited);
    assert!(error.retry_at().is_some());
    drop(outer);
    // Part of the probe, it goes: the request under way could not end without it.
    bench.clock.advance(61 * SECOND);
    let probe = bench.admit(sample());
    let mut inner = bench.admit(nested());
    assert!(inner.permit.departure().may_leave());
    accept(inner);
    accept(probe);
    bench.assert_all_given_back();
}
