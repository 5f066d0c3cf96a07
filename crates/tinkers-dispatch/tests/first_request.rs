//! Tests of the end of a pause: the first request is sent alone, and its outcome decides whether the gate opens.

mod common;

use std::time::Duration;

use common::{Bench, NANO, SECOND, Waiting, accept, ask, refuse, sample};
use tinkers_core::{AdmissionRequest, Admitted, AttemptOutcome, ClientId, RouteClass};
use tinkers_dispatch::{GateSnapshot, LimiterEvent, LimiterSettings};

/// Returns a request of the class `Rest`. That class has no in-flight limit, so only the gate, and the gradual increase after a rate-limit
/// pause, limit its requests.
fn listing() -> AdmissionRequest {
    ask(RouteClass::Rest)
}

/// Returns a limiter whose gate is closed for a second, and `waiting` requests that wait until it opens.
fn closed(waiting: usize) -> (Bench, Vec<Waiting>) {
    let bench = Bench::new(LimiterSettings::default());
    refuse(bench.admit(listing()), Some(SECOND));
    let queue = (0..waiting).map(|_| bench.ask(listing())).collect();
    (bench, queue)
}

fn let_through(queue: &mut [Waiting]) -> Vec<Admitted> {
    queue.iter_mut().filter_map(Waiting::try_admitted).collect()
}

fn first_request(bench: &Bench, queue: &mut [Waiting]) -> Admitted {
    bench.clock.advance(SECOND);
    let mut through = let_through(queue);
    assert_eq!(through.len(), 1, "one request is sent alone");
    through.remove(0)
}

#[test]
fn first_request_after_a_pause_is_sent_alone() {
    let (bench, mut queue) = closed(40);
    let first = first_request(&bench, &mut queue);
    accept(first);
    // Eight requests are admitted at once, then as many as were accepted, up to the sixteen slots.
    let mut counts = Vec::new();
    for _ in 0..3 {
        let through = let_through(&mut queue);
        counts.push(through.len());
        through.into_iter().for_each(accept);
    }
    // Each accepted request admits another one, so a round has more than the first eight.
    assert_eq!(counts[0], 8);
    assert!(let_through(&mut queue).len() <= 16);
    assert_eq!(bench.state(RouteClass::Rest).counts.first_requests, 1);
}

#[test]
fn dropped_first_request_after_a_pause_is_replaced_at_once() {
    let (bench, mut queue) = closed(3);
    drop(first_request(&bench, &mut queue));
    let second = let_through(&mut queue);
    assert_eq!(second.len(), 1, "another request at the same time");
    assert_eq!(bench.state(RouteClass::Rest).counts.first_requests, 2);
}

#[test]
fn unanswered_first_request_is_replaced_after_a_second() {
    let (bench, mut queue) = closed(3);
    let silent = first_request(&bench, &mut queue);
    bench.clock.advance(SECOND - NANO);
    assert!(let_through(&mut queue).is_empty());
    bench.clock.advance(NANO);
    assert_eq!(let_through(&mut queue).len(), 1);
    accept(silent);
    assert_eq!(
        let_through(&mut queue).len(),
        1,
        "any response opens the gate"
    );
}

#[test]
fn late_failure_of_a_replaced_first_request_keeps_the_gate_state() {
    for late in [AttemptOutcome::Unknown, AttemptOutcome::Dropped] {
        let (bench, mut queue) = closed(3);
        let silent = first_request(&bench, &mut queue);
        bench.clock.advance(SECOND);
        let mut second = let_through(&mut queue);
        let gate = bench.state(RouteClass::Rest).gate;
        assert_eq!(gate, GateSnapshot::FirstRequestUntil(bench.at(SECOND)));
        silent.permit.settle(late);
        assert_eq!(bench.state(RouteClass::Rest).gate, gate, "{late:?}");
        assert!(let_through(&mut queue).is_empty(), "{late:?}: a third one");
        accept(second.remove(0));
        assert_eq!(
            bench.state(RouteClass::Rest).gate,
            GateSnapshot::Open,
            "{late:?}"
        );
        assert_eq!(let_through(&mut queue).len(), 1, "{late:?}");
    }
}

#[test]
fn any_response_except_a_refusal_opens_the_gate() {
    let (bench, mut queue) = closed(3);
    let first = first_request(&bench, &mut queue);
    first.permit.settle(AttemptOutcome::Unknown);
    assert!(let_through(&mut queue).is_empty());
    bench.clock.advance(SECOND / 2 - NANO);
    assert!(
        let_through(&mut queue).is_empty(),
        "the gate stays closed for a while"
    );
    bench.clock.advance(NANO);
    let mut second = let_through(&mut queue);
    assert_eq!(second.len(), 1);
    second.remove(0).permit.settle(AttemptOutcome::Answered);
    assert_eq!(bench.state(RouteClass::Rest).gate, GateSnapshot::Open);
    assert_eq!(let_through(&mut queue).len(), 1);
}

#[test]
fn short_retry_delays_cause_no_busy_loop() {
    for class in [
        RouteClass::Sample,
        RouteClass::Train,
        RouteClass::Poll,
        RouteClass::Rest,
    ] {
        let bench = Bench::new(LimiterSettings::default());
        let hint = Some(Duration::from_millis(1));
        refuse(bench.admit(ask(class)), hint);
        let mut queue: Vec<_> = (0..50).map(|_| bench.ask(ask(class))).collect();
        let began = bench.at(Duration::ZERO);
        let mut first_requests = 0;
        while bench.at(Duration::ZERO).since(began) < 30 * SECOND {
            let through = let_through(&mut queue);
            if through.is_empty() {
                let next = bench.clock.advance_to_next();
                assert!(
                    next.is_some(),
                    "{class:?}: no waiter has a timer after {first_requests} first requests"
                );
            }
            for admitted in through {
                first_requests += 1;
                refuse(admitted, hint);
            }
        }
        // The pauses double from 10 ms up to a second: seven first requests, then one each second.
        assert!(
            (30..=40).contains(&first_requests),
            "{class:?}: {first_requests} in 30 s"
        );
    }
}

#[test]
fn poll_that_is_pending_for_a_while_counts_as_accepted() {
    let bench = Bench::new(LimiterSettings::default());
    refuse(bench.admit(ask(RouteClass::Poll)), Some(SECOND));
    let mut queue: Vec<_> = (0..30).map(|_| bench.ask(ask(RouteClass::Poll))).collect();
    let held = first_request(&bench, &mut queue);
    bench.clock.advance(SECOND / 4);
    let first = let_through(&mut queue).len();
    assert_eq!(bench.state(RouteClass::Poll).gate, GateSnapshot::Open);
    assert!((1..=8).contains(&first), "{first} at once");
    let mut through = first;
    while through < 29 {
        assert!(bench.clock.advance_to_next().is_some(), "{through} in all");
        through += let_through(&mut queue).len();
    }
    drop(held);
}

#[test]
fn each_client_has_its_own_timer_for_the_gate_deadline() {
    let bench = Bench::new(LimiterSettings::default());
    refuse(bench.admit(listing()), Some(SECOND));
    let of = |client| AdmissionRequest {
        client: ClientId(client),
        ..listing()
    };
    // The runtime of the first client stops polling its requests.
    let _stuck: Vec<_> = (0..3).map(|_| bench.ask(of(1))).collect();
    let mut other = bench.ask(of(2));
    let mut behind = bench.ask(of(2));
    assert_eq!(bench.clock.sleepers(), 2, "one timer for each client");
    bench.clock.advance(SECOND);
    // The first request after the pause was granted to the first client, which does not collect it; the second client follows a second
    // later.
    assert!(other.is_waiting());
    bench.clock.advance(SECOND);
    accept(other.try_admitted().expect("it looked by itself"));
    accept(behind.try_admitted().expect("the gate is open"));
}

#[test]
fn limiter_events_are_published_in_order() {
    let bench = Bench::new(LimiterSettings::default());
    let mut events = bench.limiter.events();
    let taken: Vec<_> = (0..3).map(|_| bench.admit(sample())).collect();
    let (one, two) = (bench.admit(sample()), bench.admit(sample()));
    let mut in_flight_permits = Vec::new();
    for Admitted {
        permit,
        in_flight_permit,
        ..
    } in taken
    {
        permit.settle(AttemptOutcome::Accepted);
        in_flight_permits.push(in_flight_permit);
    }
    refuse(one, Some(SECOND));
    refuse(two, None);
    in_flight_permits.pop();
    let mut waiting = bench.ask(sample());
    bench.clock.advance(SECOND);
    accept(waiting.try_admitted().expect("the first request"));
    let mut told = Vec::new();
    while let Some(event) = events.try_next() {
        told.push(event);
    }
    let class = RouteClass::Sample;
    let closed = |is_hinted, is_first| LimiterEvent::ClosedUntil {
        class,
        pause: SECOND,
        is_hinted,
        is_first,
    };
    assert!(
        matches!(
            told[..],
            [
                first,
                LimiterEvent::WindowChanged { limit: 3, .. },
                second,
                LimiterEvent::FirstRequest { .. },
                LimiterEvent::Opened { .. },
            ] if first == closed(true, true) && second == closed(false, false)
        ),
        "{told:?}"
    );
    let counts = bench.sample().counts;
    assert_eq!(
        (
            counts.refusals,
            counts.hints,
            counts.events,
            counts.first_requests
        ),
        (2, 1, 1, 1)
    );
}
