//! The close and the drop of a session.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::Method;
use serde_json::json;
use tinkers_core::{ErrorKind, RouteClass, Sent, SessionContext};
use tinkers_session::{Session, SessionEvent};
use tinkers_wire::{FinishReason, routes};

use crate::support::{Channel, Fixture, Recorded, Reply};

const FINISH: &str = "/api/v1/sessions/session-1/finish";

fn close(fixture: &Fixture, session: &Arc<Session>) -> Result<(), tinkers_core::Error> {
    fixture.drive(session.close(FinishReason::Success, None))
}

#[test]
fn session_close_sends_one_finish_request_and_stops_background_tasks() {
    let fixture = Fixture::new();
    let session = fixture.open();
    let mut events = session.events();
    fixture.heartbeat_times(1);
    close(&fixture, &session).expect("closed");
    let finishes = fixture.server.requests_to(FINISH);
    assert_eq!(finishes.len(), 1);
    let finish = &finishes[0];
    assert_eq!(finish.request.method, Method::POST);
    assert_eq!(finish.request.class, RouteClass::Control);
    assert_eq!(finish.channel, Channel::Main);
    assert_eq!(finish.header("x-sdk-method"), Some("ServiceClient.close"));
    assert_eq!(
        finish.body(),
        json!({"reason": {"type": "success"}, "detail": null})
    );
    fixture.assert_idle();
    assert_eq!(fixture.drive(events.next()), None, "no more events");

    // Further closes do nothing.
    close(&fixture, &session).expect("closed already");
    close(&fixture, &Arc::clone(&session)).expect("closed already");
    assert_eq!(fixture.server.requests_to(FINISH).len(), 1);
}

#[test]
fn first_session_close_decides_the_reported_reason_and_detail() {
    for (reason, name) in [
        (FinishReason::Success, "success"),
        (FinishReason::Errored, "errored"),
        (FinishReason::Interrupted, "interrupted"),
    ] {
        let fixture = Fixture::new();
        let session = fixture.open();
        let detail = Some("loss was NaN".to_owned());
        fixture
            .drive(session.close(reason, detail))
            .expect("closed");
        close(&fixture, &session).expect("closed already");
        let finishes = fixture.server.requests_to(FINISH);
        let bodies: Vec<_> = finishes.iter().map(Recorded::body).collect();
        let expected = json!({"reason": {"type": name}, "detail": "loss was NaN"});
        assert_eq!(bodies, [expected]);
    }
}

#[test]
fn calls_after_session_close_fail_without_a_request() {
    let fixture = Fixture::new();
    let session = fixture.open();
    close(&fixture, &session).expect("closed");
    let requests = fixture.server.requests().len();
    let capabilities = fixture.drive(session.capabilities()).expect_err("closed");
    let health = fixture.drive(session.health()).expect_err("closed");
    let open = session.check_open().expect_err("closed");
    for error in [capabilities, health, open] {
        assert_eq!(error.kind(), ErrorKind::Closed);
        assert_eq!(error.sent(), Sent::NotSent);
        assert!(error.to_string().contains("client is closed"), "{error}");
    }
    assert_eq!(fixture.server.requests().len(), requests);
}

#[test]
fn session_close_succeeds_if_the_server_lacks_the_route_or_session() {
    for reply in [
        Reply::Status(404, r#"{"detail": "Not Found"}"#),
        Reply::Status(405, "method not allowed"),
        Reply::Status(410, r#"{"detail": "the session has ended"}"#),
        Reply::Status(204, ""),
    ] {
        let fixture = Fixture::new();
        let session = fixture.open();
        fixture.server.set_default(FINISH, reply);
        close(&fixture, &session).unwrap_or_else(|error| panic!("{reply:?}: {error}"));
        assert_eq!(fixture.server.requests_to(FINISH).len(), 1, "{reply:?}");
        fixture.assert_idle();
    }
}

#[test]
fn rejected_close_request_returns_an_error_and_closes_the_session() {
    for (status, kind) in [
        (400, ErrorKind::Rejected),
        (401, ErrorKind::Authentication),
        (403, ErrorKind::PermissionDenied),
        (422, ErrorKind::Rejected),
    ] {
        let fixture = Fixture::new();
        let session = fixture.open();
        let reply = Reply::Status(status, r#"{"detail": "no"}"#);
        fixture.server.set_default(FINISH, reply);
        let error = close(&fixture, &session).expect_err("the finish is rejected");
        assert_eq!(error.kind(), kind);
        assert_eq!(error.operation(), Some("ServiceClient.close"));
        session.check_open().expect_err("closed");
        fixture.assert_idle();
        close(&fixture, &session).expect("closed already");
        assert_eq!(fixture.server.requests_to(FINISH).len(), 1);
    }
}

#[test]
fn session_close_is_retried_while_heartbeats_continue() {
    let fixture = Fixture::new();
    let session = fixture.open();
    let busy = Reply::Status(503, "{}");
    fixture.server.script(FINISH, [busy, busy]);
    close(&fixture, &session).expect("accepted by the third attempt");
    assert_eq!(fixture.server.requests_to(FINISH).len(), 3);

    let fixture = Fixture::new();
    let session = fixture.open();
    fixture.server.set_default(FINISH, busy);
    let error = close(&fixture, &session).expect_err("never accepted");
    assert_eq!(error.kind(), ErrorKind::Server);
    let attempts = fixture.server.requests_to(FINISH).len();
    // The finish request is retried early to detect the end of the outage, about once a second.
    assert!((10..35).contains(&attempts), "{attempts}");
    // The session must not expire on the server before the server has acknowledged the close.
    assert!(fixture.server.requests_on(Channel::Heartbeat).len() >= 2);
    fixture.assert_idle();
}

#[test]
fn session_close_takes_at_most_one_minute() {
    for reply in [
        Reply::Header(429, "retry-after", "600"),
        Reply::Header(503, "retry-after", "600"),
        Reply::Status(402, "{}"),
        Reply::Status(429, "{}"),
    ] {
        let fixture = Fixture::new();
        let session = fixture.open();
        fixture.server.set_default(FINISH, reply);
        let error = close(&fixture, &session).expect_err("never accepted");
        let waited = fixture.clock_seconds();
        assert!(waited <= 60.0, "{reply:?}: {waited} s, {error}");
        fixture.assert_idle();
    }
}

#[test]
fn session_close_follows_short_retry_delays_and_fails_on_long_ones() {
    let fixture = Fixture::new();
    let session = fixture.open();
    let short = Reply::Header(429, "retry-after", "40");
    fixture.server.script(FINISH, [short]);
    close(&fixture, &session).expect("accepted by the second attempt");
    let finishes = fixture.server.requests_to(FINISH);
    assert_eq!(finishes.len(), 2);
    assert!(finishes[1].seconds() >= 40.0, "{}", finishes[1].seconds());

    let fixture = Fixture::new();
    let session = fixture.open();
    let long = Reply::Header(429, "retry-after", "600");
    fixture.server.set_default(FINISH, long);
    let error = close(&fixture, &session).expect_err("never accepted");
    assert_eq!(error.kind(), ErrorKind::RateLimited);
    assert!(error.retry_after() >= Some(Duration::from_secs(600)));
    assert_eq!(fixture.clock_seconds(), 0.0, "fails at once");
}

#[test]
fn concurrent_session_closes_send_one_finish_request() {
    let fixture = Fixture::new();
    let session = fixture.open();
    let late = Reply::Late(Duration::from_secs(4), 200, "{}");
    fixture.server.set_default(FINISH, late);
    let mut first = Box::pin(session.close(FinishReason::Success, None));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(first.as_mut().poll(&mut cx).is_pending());
    let second = Box::pin(session.close(FinishReason::Errored, None));
    fixture.drive(second).expect("closed already");
    assert_eq!(fixture.clock_seconds(), 0.0, "no wait for the first close");
    fixture.drive(first).expect("closed");
    assert_eq!(fixture.clock_seconds(), 4.0);
    assert_eq!(fixture.server.requests_to(FINISH).len(), 1);
}

#[test]
fn dropped_close_future_closes_the_session_and_stops_background_tasks() {
    let fixture = Fixture::new();
    let session = fixture.open();
    fixture.server.set_default(FINISH, Reply::Hangs);
    let mut closing = Box::pin(session.close(FinishReason::Success, None));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(matches!(closing.as_mut().poll(&mut cx), Poll::Pending));
    drop(closing);
    fixture.assert_idle();
    let error = session.check_open().expect_err("closed");
    assert_eq!(error.kind(), ErrorKind::Closed);
}

#[test]
fn dropping_the_last_session_handle_stops_heartbeats_without_a_request() {
    let fixture = Fixture::new();
    let session = fixture.open();
    let mut events = session.events();
    let other = Arc::clone(&session);
    fixture.heartbeat_times(2);
    drop(session);
    // The other handle keeps the session alive.
    assert_eq!(fixture.heartbeat_times(3), [10.0, 20.0, 30.0]);
    fixture.run_tasks();
    let requests = fixture.server.requests().len();
    drop(other);
    fixture.assert_idle();
    assert_eq!(fixture.server.requests().len(), requests, "no finish");
    assert_eq!(fixture.drive(events.next()), None, "no more events");
    assert!(fixture.endpoints.is_empty(), "the endpoint is dropped");
}

#[test]
fn dropped_session_cancels_the_heartbeat_in_flight() {
    let fixture = Fixture::new();
    fixture
        .server
        .set_default(routes::SESSION_HEARTBEAT, Reply::Hangs);
    let session = fixture.open();
    fixture.heartbeat_times(1);
    fixture.run_tasks();
    drop(session);
    fixture.assert_idle();
}

#[test]
fn session_that_is_lost_during_its_close_sends_no_ended_event() {
    let fixture = Fixture::new();
    let session = fixture.open();
    let mut events = session.events();
    let gone = Reply::Status(410, "");
    fixture.server.set_default(routes::SESSION_HEARTBEAT, gone);
    let late = Reply::Late(Duration::from_secs(15), 200, "{}");
    fixture.server.set_default(FINISH, late);
    close(&fixture, &session).expect("closed");
    assert_eq!(fixture.server.requests_on(Channel::Heartbeat).len(), 1);
    assert_ne!(events.latest(), Some(SessionEvent::Ended));
    assert_eq!(fixture.drive(events.next()), None);
    let error = session.check_open().expect_err("closed");
    assert!(error.to_string().contains("client is closed"), "{error}");
}

#[test]
fn heartbeat_thread_ends_after_session_close_or_drop() {
    for by_drop in [false, true] {
        let fixture = Fixture::new();
        let parts = fixture.parts();
        let thread = Arc::downgrade(&parts.heartbeat.spawner);
        let session = fixture
            .drive(Session::open(parts, Default::default()))
            .expect("opens");
        assert!(
            thread.upgrade().is_some(),
            "the thread exists while the session is open"
        );
        if by_drop {
            drop(session);
            assert!(thread.upgrade().is_none());
        } else {
            close(&fixture, &session).expect("closed");
            assert!(thread.upgrade().is_none());
        }
    }
}
