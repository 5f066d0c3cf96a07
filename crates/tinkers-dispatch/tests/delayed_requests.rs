//! Tests of grants that are collected late or never, requests that wait for a connection, and responses with slow bodies.

mod common;

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, StatusCode};
use tinkers_core::{
    AdmissionRequest, AttemptOutcome, ClientId, DepartureCheck, ErrorKind, InFlightPermit,
    RouteClass,
};
use tinkers_dispatch::{GateSnapshot, LimiterSettings};

use common::{Bench, SECOND, accept, ask, refuse, refused, sample};

fn of(client: u64, in_flight_permit: Option<InFlightPermit>) -> AdmissionRequest {
    AdmissionRequest {
        client: ClientId(client),
        in_flight_permit,
        ..sample()
    }
}

fn nested() -> AdmissionRequest {
    AdmissionRequest {
        is_nested: true,
        ..sample()
    }
}

/// Reports the status and headers of a 429 response to `departure`, as a transport does before the body has arrived.
fn refusal_head(departure: &DepartureCheck, retry_after: Option<&'static str>) {
    let mut headers = HeaderMap::new();
    if let Some(seconds) = retry_after {
        headers.insert("retry-after", HeaderValue::from_static(seconds));
    }
    let wall = SystemTime::UNIX_EPOCH;
    departure.head(StatusCode::TOO_MANY_REQUESTS, &headers, wall);
}

#[test]
fn request_admitted_but_not_polled_before_a_refusal_waits_again() {
    let bench = Bench::sampling(2, 1000, 99);
    let (one, two) = (bench.admit(sample()), bench.admit(sample()));
    let mut waiting = bench.ask(sample());
    // The slot is granted to the third request, which is not polled before the gate closes for a minute.
    accept(one);
    refuse(two, Some(60 * SECOND));
    bench.clock.advance(30 * SECOND);
    assert!(waiting.try_admitted().is_none());
    assert_eq!(bench.sample().slots, 0, "its slot was returned");
    bench.clock.advance(31 * SECOND);
    let first_request = waiting.try_admitted().expect("the hint has passed");
    accept(first_request);
    bench.assert_all_given_back();
}

#[test]
fn admission_whose_future_is_not_polled_passes_to_another_client() {
    let bench = Bench::sampling(1, 1000, 99);
    let held = bench.admit(of(0, None));
    let mut stuck = bench.ask(of(1, None));
    let mut other = bench.ask(of(2, None));
    accept(held);
    assert!(
        other.try_admitted().is_none(),
        "the first request was admitted"
    );
    bench.clock.advance(2 * SECOND);
    let went = other.try_admitted().expect("the grant has lapsed");
    assert_eq!(bench.sample().counts.lapsed, 1);
    // If the stuck waiter is polled again, it has its old position.
    assert!(stuck.try_admitted().is_none());
    accept(went);
    accept(stuck.try_admitted().expect("there is room again"));
    bench.assert_all_given_back();
}

#[test]
fn clients_take_turns_with_retries_that_hold_in_flight_permits() {
    let bench = Bench::sampling(1, 1000, 99);
    let held = bench.admit(of(1, None));
    held.permit.settle(AttemptOutcome::Unknown);
    let mut current = bench.admit(of(1, None));
    let mut in_flight_permit = Some(held.in_flight_permit);
    let mut other = bench.ask(of(2, None));
    for round in 0..3 {
        let mut retry = bench.ask(of(1, in_flight_permit.take()));
        assert!(retry.is_waiting());
        current.permit.settle(AttemptOutcome::Unknown);
        in_flight_permit = Some(current.in_flight_permit);
        if let Some(admitted) = other.try_admitted() {
            drop((admitted, retry, in_flight_permit));
            bench.assert_all_given_back();
            return;
        }
        current = retry.try_admitted().expect("the retry goes first");
        assert!(round < 2, "one client takes all turns");
    }
}

#[test]
fn retry_with_an_in_flight_permit_overtakes_a_new_request() {
    let bench = Bench::sampling(2, 1000, 1);
    let held = bench.admit(of(1, None));
    held.permit.settle(AttemptOutcome::Unknown);
    let blocked = bench.ask(of(2, None));
    let retry = bench.ask(of(1, Some(held.in_flight_permit)));
    accept(retry.admitted());
    accept(blocked.admitted());
    bench.assert_all_given_back();
}

#[test]
fn rate_of_unanswered_polls_rises_gradually_after_a_pause() {
    let bench = Bench::new(LimiterSettings::default());
    let poll = || ask(RouteClass::Poll);
    refuse(bench.admit(poll()), Some(SECOND));
    let mut queue: Vec<_> = (0..3000).map(|_| bench.ask(poll())).collect();
    bench.clock.advance(SECOND);
    let mut held: Vec<_> = queue
        .iter_mut()
        .filter_map(|poll| poll.try_admitted())
        .collect();
    assert_eq!(held.len(), 1, "a first request");
    accept(held.pop().expect("the first request"));
    // From now on the server holds every poll, so no response shows that a poll is accepted.
    let mut bursts = Vec::new();
    while held.len() < 2999 {
        let before = held.len();
        held.extend(queue.iter_mut().filter_map(|poll| poll.try_admitted()));
        let burst = held.len() - before;
        assert!(burst <= before.max(8), "{burst} together after {before}");
        bursts.extend((burst > 0).then_some(burst));
        assert!(bursts.len() < 20, "the polls stopped: {bursts:?}");
        bench.clock.advance(Duration::from_millis(250));
    }
    held.into_iter().for_each(accept);
    drop(queue);
    bench.assert_all_given_back();
}

#[test]
fn refusal_stops_another_admitted_request_that_was_not_sent_yet() {
    let bench = Bench::sampling(3, 1000, 99);
    let (mut late, refusal) = (bench.admit(sample()), bench.admit(sample()));
    let departure = late.permit.departure();
    assert!(departure.may_leave());
    refuse(refusal, Some(SECOND));
    assert!(!departure.may_leave());
    // The gate opens again. A request that was admitted before the closure would overtake the waiters.
    bench.clock.advance(2 * SECOND);
    let mut first_request = bench.admit(sample());
    assert!(first_request.permit.departure().may_leave());
    assert!(
        !departure.may_leave(),
        "while the first request is under way"
    );
    accept(first_request);
    assert_eq!(bench.sample().gate, GateSnapshot::Open);
    assert!(!departure.may_leave(), "after the first request");
    assert_eq!(bench.sample().counts.held, 3);
    drop(late);
    bench.assert_all_given_back();
}

#[test]
fn refusal_closes_the_gate_before_the_response_body_arrives() {
    let bench = Bench::sampling(3, 1000, 99);
    let mut refusal = bench.admit(sample());
    let departure = refusal.permit.departure();
    refusal_head(&departure, Some("30"));
    let now = bench.at(Duration::ZERO);
    assert_eq!(bench.opens_at().since(now), 30 * SECOND);
    // The body arrives ten seconds later, but the retry delay counts from the head.
    bench.clock.advance(10 * SECOND);
    refuse(refusal, Some(30 * SECOND));
    let counts = bench.sample().counts;
    assert_eq!((counts.refusals, counts.events), (1, 1));
    bench.assert_all_given_back();
}

#[test]
fn retry_delay_in_the_body_of_a_refusal_extends_the_pause() {
    let bench = Bench::sampling(3, 1000, 99);
    let mut refusal = bench.admit(sample());
    let departure = refusal.permit.departure();
    refusal_head(&departure, None);
    let now = bench.at(Duration::ZERO);
    assert_eq!(bench.opens_at().since(now), SECOND);
    refusal.permit.settle(refused(Some(20 * SECOND)));
    drop(refusal.in_flight_permit);
    assert_eq!(bench.opens_at().since(now), 20 * SECOND);
    let counts = bench.sample().counts;
    assert_eq!((counts.refusals, counts.events), (1, 1));
    bench.assert_all_given_back();
}

#[test]
fn request_made_inside_another_needs_no_free_slot() {
    let bench = Bench::sampling(1, 10, 1);
    let outer = bench.admit(sample());
    let waiting = bench.ask(sample());
    accept(bench.admit(nested()));
    accept(outer);
    accept(waiting.admitted());
    bench.assert_all_given_back();
}

#[test]
fn request_made_inside_another_fails_at_once_while_the_gate_is_closed() {
    let bench = Bench::sampling(2, 10, 9);
    let outer = bench.admit(sample());
    refuse(bench.admit(sample()), Some(60 * SECOND));
    let error = bench.ask(nested()).error();
    assert_eq!(error.kind(), ErrorKind::RateLimited);
    assert!(error.retry_at().is_some());
    drop(outer);
    // The nested request is admitted as part of the first request after the pause, which could not complete without it.
    bench.clock.advance(61 * SECOND);
    let first_request = bench.admit(sample());
    let mut inner = bench.admit(nested());
    assert!(inner.permit.departure().may_leave());
    accept(inner);
    accept(first_request);
    bench.assert_all_given_back();
}
