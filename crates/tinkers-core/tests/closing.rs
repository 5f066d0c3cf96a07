//! Calls that are dropped while they wait, or whose client is closed meanwhile.

use std::sync::Arc;

use tinkers_core::TransportErrorKind as T;
use tinkers_core::{Call, Error, ErrorKind, ProgressCell, RouteClass, Sent, Timestamp};

use support::Step::{Dials, Fails, Header, Says, Silent};
use support::{Step, World, post};

mod support;

const OK: Step = Says(200, "{}");

#[test]
fn client_close_ends_a_call_in_each_phase() {
    let gate = Header(429, "retry-after", "30");
    let large = |mut call: Call| {
        call.cost.bytes = 1 << 20;
        call
    };
    let same = |call| call;
    type Change = fn(Call) -> Call;
    let rows: [(&str, Step, Change, Sent); 9] = [
        ("closed gate", gate, same, Sent::NotSent),
        ("large request", Says(429, "{}"), large, Sent::NotSent),
        ("bill", Says(402, "{}"), same, Sent::NotSent),
        (
            "nothing left",
            Fails(T::Connect, Sent::NotSent),
            same,
            Sent::NotSent,
        ),
        ("too early", Says(425, "{}"), same, Sent::NotSent),
        ("server failed", Says(500, "{}"), same, Sent::MaybeSent),
        (
            "answer lost",
            Fails(T::Broken, Sent::MaybeSent),
            same,
            Sent::MaybeSent,
        ),
        ("no answer yet", Silent, same, Sent::MaybeSent),
        ("no connection yet", Dials, same, Sent::NotSent),
    ];
    for (place, step, change, sent) in rows {
        let world = World::new(&[step], OK);
        let error = world.close_while_it_waits(change(post(RouteClass::Train)));
        assert_eq!(
            (error.kind(), error.sent()),
            (ErrorKind::Closed, sent),
            "{place}"
        );
        assert_eq!(world.seen().len(), 1, "{place}");
        assert_eq!(world.in_flight_permits(), 0, "{place}");
    }
}

#[test]
fn request_may_not_be_sent_after_the_client_is_closed() {
    for step in [Silent, Dials] {
        let world = World::new(&[step], OK);
        world.close_while_it_waits(post(RouteClass::Train));
        assert_eq!(world.departures_that_may_leave(), 0);
    }
}

#[test]
fn call_dropped_while_connecting_counts_as_not_sent() {
    for (step, sent) in [(Dials, Sent::NotSent), (Silent, Sent::MaybeSent)] {
        let world = World::new(&[step], OK);
        let cell = Arc::new(ProgressCell::new(Timestamp::ORIGIN));
        let mut call = post(RouteClass::Sample);
        call.progress = Some(Arc::clone(&cell));
        world.give_up_while_it_waits(call);
        assert_eq!(cell.sent(), sent);
        assert_eq!(
            world.departures_that_may_leave(),
            0,
            "no more requests are sent"
        );
    }
}

#[test]
fn closed_client_sends_no_requests() {
    let world = World::new(&[], OK);
    world.caller.closing.close(Error::closed());
    let error = world.call(post(RouteClass::Train)).expect_err("closed");
    assert_eq!(
        (error.kind(), error.sent()),
        (ErrorKind::Closed, Sent::NotSent)
    );
    assert!(world.seen().is_empty());
}
