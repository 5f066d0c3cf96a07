//! The retry window, and requests that the transport does not send because the gate has closed.

use std::time::Duration;

use tinkers_core::TransportErrorKind as T;
use tinkers_core::{
    AdmissionRequest, ClientId, Clock, Cost, ErrorKind, Readmission, RouteClass, Sent, Timestamp,
};

use crate::support::Step::{Fails, Header, Late, Says};
use crate::support::{Step, World, post};
use crate::{NOT_SENT, OK, secs};

#[test]
fn retry_window_begins_with_the_first_attempt() {
    // The first attempt waits ten minutes for admission, and the second is refused with a long retry delay. Neither counts for the
    // retry window.
    for script in [
        vec![NOT_SENT],
        vec![Says(503, "")],
        vec![Header(429, "retry-after", "400"), NOT_SENT],
        vec![Header(429, "retry-after", "400"), Says(503, "")],
    ] {
        let world = World::new(&script, OK).closed_until(secs(600));
        let outcome = world.call(post(RouteClass::Sample));
        outcome.unwrap_or_else(|error| panic!("{script:?}: {error}"));
        assert_eq!(world.seen().len(), script.len() + 1, "{script:?}");
    }
    // All other time counts for the retry window.
    let world = World::new(&[], NOT_SENT).closed_until(secs(600));
    let error = world.call(post(RouteClass::Sample)).expect_err("no end");
    assert_eq!(error.kind(), ErrorKind::Connection);
    let last = *world.seen().last().expect("attempts");
    assert!((secs(600)..secs(900)).contains(&last), "{last:?}");
}

#[test]
fn pauses_after_429_and_402_do_not_count_for_the_retry_window() {
    const HELD: Step = Fails(T::Held, Sent::NotSent);
    const REFUSED: Step = Says(429, "{}");
    const UNPAID: Step = Says(402, "{}");
    for step in [
        Late(400, &HELD),
        Late(400, &REFUSED),
        Late(400, &UNPAID),
        Header(402, "retry-after", "400"),
    ] {
        let mut world = World::new(&[step, NOT_SENT], OK);
        world.caller.billing.limit = secs(3600);
        let outcome = world.call(post(RouteClass::Sample));
        outcome.unwrap_or_else(|error| panic!("{step:?}: {error}"));
        assert_eq!(world.seen().len(), 3, "{step:?}");
    }
}

#[test]
fn wait_for_admission_does_not_count_for_the_retry_window() {
    let world = World::new(&[NOT_SENT], OK).closed_until(secs(600));
    let ask = AdmissionRequest {
        class: RouteClass::Sample,
        client: ClientId(0),
        cost: Cost::default(),
        deadline: None,
        in_flight_permit: None,
        readmission: Readmission::New,
        is_nested: false,
    };
    let accepted = world.call_with_admission(ask, post(RouteClass::Sample));
    accepted.expect("it is retried");
    assert_eq!(world.seen()[0], secs(600));
}

#[test]
fn request_not_sent_because_the_gate_closed_is_retried_at_once() {
    let held = Fails(T::Held, Sent::NotSent);
    let world = World::new(&[held, held], OK);
    let accepted = world.call(post(RouteClass::Train)).expect("accepted");
    assert_eq!(accepted.earlier, Sent::NotSent);
    assert_eq!(world.seen(), [secs(0); 3], "there is no additional pause");
    assert_eq!(
        world.in_flight_permits(),
        1,
        "the permits of attempts that were not sent are returned"
    );
    drop(accepted);
    assert_eq!(world.in_flight_permits(), 0);
}

#[test]
fn retry_delay_of_a_402_response_is_followed() {
    let unpaid = Header(402, "retry-after", "30");
    let world = World::new(&[unpaid, Says(402, "{}")], OK);
    world
        .call(post(RouteClass::Sample))
        .expect("accepted after payment");
    assert_eq!(world.seen(), [secs(0), secs(30), secs(35)]);
    // The retry delay is limited to the maximum duration of a billing pause.
    let world = World::new(&[Header(402, "retry-after", "1e300")], OK);
    world
        .call(post(RouteClass::Sample))
        .expect("accepted after payment");
    assert_eq!(world.seen(), [secs(0), secs(60)]);
}

#[test]
fn pause_beyond_the_deadline_fails_the_call_at_once() {
    let mut call = post(RouteClass::Train);
    call.deadline = Some(Timestamp::from_origin(secs(2)));
    let world = World::new(&[], Says(503, ""));
    let error = world.call(call).expect_err("there is no time left");
    assert_eq!(
        world.seen(),
        [
            secs(0),
            Duration::from_millis(500),
            Duration::from_millis(1500)
        ]
    );
    assert_eq!(
        world.clock.now(),
        Timestamp::from_origin(Duration::from_millis(1500))
    );
    assert!(error.retry_at().is_some());
}
