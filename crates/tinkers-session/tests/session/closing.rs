//! The end of a session at the caller's wish, by word or by drop.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::Method;
use serde_json::json;
use tinkers_core::{ErrorKind, RouteClass, Sent, SessionContext};
use tinkers_session::{Session, SessionEvent};
use tinkers_wire::{FinishReason, routes};

use crate::support::{Asked, Line, Reply, World};

const FINISH: &str = "/api/v1/sessions/session-1/finish";

fn close(world: &World, session: &Arc<Session>) -> Result<(), tinkers_core::Error> {
    world.drive(session.close(FinishReason::Success, None))
}

#[test]
fn close_tells_the_server_once_and_stops_all_background_work() {
    let world = World::new();
    let session = world.open();
    let mut events = session.events();
    world.beats(1);
    close(&world, &session).expect("closed");
    let finishes = world.server.on_path(FINISH);
    assert_eq!(finishes.len(), 1);
    let finish = &finishes[0];
    assert_eq!(finish.request.method, Method::POST);
    assert_eq!(finish.request.class, RouteClass::Control);
    assert_eq!(finish.line, Line::Main);
    assert_eq!(finish.header("x-sdk-method"), Some("ServiceClient.close"));
    assert_eq!(
        finish.body(),
        json!({"reason": {"type": "success"}, "detail": null})
    );
    world.assert_at_rest();
    assert_eq!(world.drive(events.next()), None, "there are no more events");

    // Again, and on another handle: nothing to do.
    close(&world, &session).expect("closed already");
    close(&world, &Arc::clone(&session)).expect("closed already");
    assert_eq!(world.server.on_path(FINISH).len(), 1);
}

#[test]
fn the_reason_and_the_words_of_the_first_close_count() {
    for (reason, name) in [
        (FinishReason::Success, "success"),
        (FinishReason::Errored, "errored"),
        (FinishReason::Interrupted, "interrupted"),
    ] {
        let world = World::new();
        let session = world.open();
        let detail = Some("loss was NaN".to_owned());
        world.drive(session.close(reason, detail)).expect("closed");
        close(&world, &session).expect("closed already");
        let finishes = world.server.on_path(FINISH);
        let bodies: Vec<_> = finishes.iter().map(Asked::body).collect();
        let expected = json!({"reason": {"type": name}, "detail": "loss was NaN"});
        assert_eq!(bodies, [expected]);
    }
}

#[test]
fn what_comes_after_a_close_fails_as_closed_and_sends_nothing() {
    let world = World::new();
    let session = world.open();
    close(&world, &session).expect("closed");
    let asked = world.server.asked().len();
    let capabilities = world.drive(session.capabilities()).expect_err("closed");
    let health = world.drive(session.health()).expect_err("closed");
    let open = session.check_open().expect_err("closed");
    for error in [capabilities, health, open] {
        assert_eq!(error.kind(), ErrorKind::Closed);
        assert_eq!(error.sent(), Sent::NotSent);
        assert!(error.to_string().contains("client is closed"), "{error}");
    }
    assert_eq!(world.server.asked().len(), asked);
}

#[test]
fn a_server_that_knows_no_finish_or_no_such_session_is_closed_all_the_same() {
    for answer in [
        Reply::Status(404, r#"{"detail": "Not Found"}"#),
        Reply::Status(405, "method not allowed"),
        Reply::Status(410, r#"{"detail": "the session has ended"}"#),
        Reply::Status(204, ""),
    ] {
        let world = World::new();
        let session = world.open();
        world.server.usually(FINISH, answer);
        close(&world, &session).unwrap_or_else(|error| panic!("{answer:?}: {error}"));
        assert_eq!(world.server.on_path(FINISH).len(), 1, "{answer:?}");
        world.assert_at_rest();
    }
}

#[test]
fn other_refusals_of_a_finish_are_told_and_the_session_is_closed_here() {
    for (status, kind) in [
        (400, ErrorKind::Rejected),
        (401, ErrorKind::Authentication),
        (403, ErrorKind::PermissionDenied),
        (422, ErrorKind::Rejected),
    ] {
        let world = World::new();
        let session = world.open();
        let reply = Reply::Status(status, r#"{"detail": "no"}"#);
        world.server.usually(FINISH, reply);
        let error = close(&world, &session).expect_err("told");
        assert_eq!(error.kind(), kind);
        assert_eq!(error.operation(), Some("ServiceClient.close"));
        session.check_open().expect_err("closed");
        world.assert_at_rest();
        close(&world, &session).expect("closed already");
        assert_eq!(world.server.on_path(FINISH).len(), 1);
    }
}

#[test]
fn a_finish_is_repeated_for_half_a_minute_while_the_heart_goes_on() {
    let world = World::new();
    let session = world.open();
    let busy = Reply::Status(503, "{}");
    world.server.next(FINISH, [busy, busy]);
    close(&world, &session).expect("taken in the end");
    assert_eq!(world.server.on_path(FINISH).len(), 3);

    let world = World::new();
    let session = world.open();
    world.server.usually(FINISH, busy);
    let error = close(&world, &session).expect_err("never taken");
    assert_eq!(error.kind(), ErrorKind::Server);
    let tries = world.server.on_path(FINISH).len();
    // Nothing else is heard of the server, so this is its scout, once a second.
    assert!((10..35).contains(&tries), "{tries}");
    // A session whose end the server does not know of yet must not be ended by silence meanwhile.
    assert!(world.server.on_line(Line::Heart).len() >= 2);
    world.assert_at_rest();
}

#[test]
fn no_answer_to_a_finish_holds_the_caller_up_for_more_than_a_minute() {
    for answer in [
        Reply::Header(429, "retry-after", "600"),
        Reply::Header(503, "retry-after", "600"),
        Reply::Status(402, "{}"),
        Reply::Status(429, "{}"),
    ] {
        let world = World::new();
        let session = world.open();
        world.server.usually(FINISH, answer);
        let error = close(&world, &session).expect_err("never taken");
        let waited = world.clock_seconds();
        assert!(waited <= 60.0, "{answer:?}: {waited} s, {error}");
        world.assert_at_rest();
    }
}

#[test]
fn a_hint_on_a_finish_is_followed_when_it_is_short_and_told_when_it_is_long() {
    let world = World::new();
    let session = world.open();
    let short = Reply::Header(429, "retry-after", "40");
    world.server.next(FINISH, [short]);
    close(&world, &session).expect("taken the second time");
    let finishes = world.server.on_path(FINISH);
    assert_eq!(finishes.len(), 2);
    assert!(finishes[1].seconds() >= 40.0, "{}", finishes[1].seconds());

    let world = World::new();
    let session = world.open();
    let long = Reply::Header(429, "retry-after", "600");
    world.server.usually(FINISH, long);
    let error = close(&world, &session).expect_err("never taken");
    assert_eq!(error.kind(), ErrorKind::RateLimited);
    assert!(error.retry_after() >= Some(Duration::from_secs(600)));
    assert_eq!(world.clock_seconds(), 0.0, "told at once");
}

#[test]
fn two_closes_at_once_make_one_finish() {
    let world = World::new();
    let session = world.open();
    let late = Reply::Late(Duration::from_secs(4), 200, "{}");
    world.server.usually(FINISH, late);
    let mut first = Box::pin(session.close(FinishReason::Success, None));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(first.as_mut().poll(&mut cx).is_pending());
    let second = Box::pin(session.close(FinishReason::Errored, None));
    world.drive(second).expect("nothing left to do");
    assert_eq!(world.clock_seconds(), 0.0, "it does not wait for the first");
    world.drive(first).expect("closed");
    assert_eq!(world.clock_seconds(), 4.0);
    assert_eq!(world.server.on_path(FINISH).len(), 1);
}

#[test]
fn a_close_that_is_dropped_has_closed_the_session_and_stopped_its_work() {
    let world = World::new();
    let session = world.open();
    world.server.usually(FINISH, Reply::Hangs);
    let mut closing = Box::pin(session.close(FinishReason::Success, None));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(matches!(closing.as_mut().poll(&mut cx), Poll::Pending));
    drop(closing);
    world.assert_at_rest();
    let error = session.check_open().expect_err("closed");
    assert_eq!(error.kind(), ErrorKind::Closed);
}

#[test]
fn the_last_drop_stops_the_heart_and_tells_the_server_nothing() {
    let world = World::new();
    let session = world.open();
    let mut events = session.events();
    let other = Arc::clone(&session);
    world.beats(2);
    drop(session);
    // Another handle is left: all goes on.
    assert_eq!(world.beats(3), [10.0, 20.0, 30.0]);
    world.settle();
    let asked = world.server.asked().len();
    drop(other);
    world.assert_at_rest();
    assert_eq!(world.server.asked().len(), asked, "no finish");
    assert_eq!(world.drive(events.next()), None, "there are no more events");
    assert!(world.endpoints.is_empty(), "nothing is shared any more");
}

#[test]
fn a_session_dropped_in_the_middle_of_a_heartbeat_gives_it_up() {
    let world = World::new();
    world
        .server
        .usually(routes::SESSION_HEARTBEAT, Reply::Hangs);
    let session = world.open();
    world.beats(1);
    world.settle();
    drop(session);
    world.assert_at_rest();
}

#[test]
fn a_heartbeat_that_finds_the_session_gone_while_it_closes_is_no_event() {
    let world = World::new();
    let session = world.open();
    let mut events = session.events();
    let gone = Reply::Status(410, "");
    world.server.usually(routes::SESSION_HEARTBEAT, gone);
    let late = Reply::Late(Duration::from_secs(15), 200, "{}");
    world.server.usually(FINISH, late);
    close(&world, &session).expect("closed");
    assert_eq!(world.server.on_line(Line::Heart).len(), 1);
    assert_ne!(events.latest(), Some(SessionEvent::Ended));
    assert_eq!(world.drive(events.next()), None);
    let error = session.check_open().expect_err("closed");
    assert!(error.to_string().contains("client is closed"), "{error}");
}

#[test]
fn the_thread_of_the_heart_is_let_go_by_a_close_and_by_a_drop() {
    for by_drop in [false, true] {
        let world = World::new();
        let parts = world.parts();
        let thread = Arc::downgrade(&parts.heartbeat.spawner);
        let session = world
            .drive(Session::open(parts, Default::default()))
            .expect("opens");
        assert!(
            thread.upgrade().is_some(),
            "it is kept while the session lives"
        );
        if by_drop {
            drop(session);
            assert!(thread.upgrade().is_none());
        } else {
            close(&world, &session).expect("closed");
            assert!(thread.upgrade().is_none());
        }
    }
}
