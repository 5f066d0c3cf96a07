//! Heartbeats: their interval, their failures and events, and their end.

use std::time::Duration;

use http::Method;
use serde_json::json;
use tinkers_core::{
    ErrorKind, RecoveredError, RouteClass, Sent, SessionContext, TransportErrorKind,
};
use tinkers_session::{SessionEvent, SessionOptions};
use tinkers_wire::{FinishReason, routes};

use crate::support::{Channel, Fixture, Reply};

const HEARTBEAT: &str = routes::SESSION_HEARTBEAT;
const LOST: Reply = Reply::Fails(TransportErrorKind::Connect, Sent::NotSent);

const fn at_risk(seconds: u64) -> Option<SessionEvent> {
    Some(SessionEvent::AtRisk {
        time_left: Duration::from_secs(seconds),
    })
}

#[test]
fn heartbeats_use_their_own_transport_every_ten_seconds() {
    let fixture = Fixture::new();
    let session = fixture.open();
    assert_eq!(fixture.heartbeat_times(4), [10.0, 20.0, 30.0, 40.0]);
    for heartbeat in fixture.server.requests_on(Channel::Heartbeat) {
        assert_eq!(heartbeat.path(), HEARTBEAT);
        assert_eq!(heartbeat.request.method, Method::POST);
        assert_eq!(heartbeat.request.class, RouteClass::Control);
        assert_eq!(heartbeat.request.timeouts.total, Duration::from_secs(10));
        assert_eq!(heartbeat.header("content-type"), Some("application/json"));
        assert_eq!(heartbeat.body(), json!({"session_id": "session-1"}));
    }
    assert_eq!(
        fixture.server.requests_on(Channel::Main).len(),
        5,
        "the opening"
    );
    assert_eq!(session.events().latest(), None);
}

#[test]
fn heartbeats_continue_after_a_panic_in_the_transport() {
    let fixture = Fixture::new();
    fixture.server.script(HEARTBEAT, [Reply::Panics]);
    let session = fixture.open();
    assert_eq!(fixture.heartbeat_times(3), [10.0, 20.0, 30.0]);
    session.check_open().expect("open");
}

/// A faulty log subscriber that panics at each log event.
struct Panics;

impl tracing::Subscriber for Panics {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        std::panic::resume_unwind(Box::new("a panic in a subscriber"));
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn heartbeats_continue_after_a_log_subscriber_panics() {
    let fixture = Fixture::new();
    let session = fixture.open();
    fixture.server.script(HEARTBEAT, [LOST]);
    let times = tracing::subscriber::with_default(Panics, || fixture.heartbeat_times(3));
    assert_eq!(times, [10.0, 20.0, 30.0]);
    session.check_open().expect("open");
}

#[test]
fn heartbeat_interval_is_at_most_a_third_of_session_expiry() {
    let seconds = Duration::from_secs;
    for (says, period, expiry, expected) in [
        ("{}", 25, 120, [25.0, 50.0, 75.0]),
        ("{}", 100, 120, [40.0, 80.0, 120.0]),
        ("{}", 10, 6, [2.0, 4.0, 6.0]),
        // The expiry in the server's configuration replaces the expiry in the options, unless it is zero.
        (r#"{"session_expiry_sec": 15}"#, 10, 120, [5.0, 10.0, 15.0]),
        (
            r#"{"session_expiry_sec": 600}"#,
            100,
            120,
            [100.0, 200.0, 300.0],
        ),
        (r#"{"session_expiry_sec": 0}"#, 10, 120, [10.0, 20.0, 30.0]),
    ] {
        let fixture = Fixture::new();
        let reply = Reply::Status(200, says);
        fixture.server.set_default(routes::CLIENT_CONFIG, reply);
        let options = SessionOptions {
            heartbeat_period: seconds(period),
            expiry: seconds(expiry),
            ..SessionOptions::default()
        };
        let _session = fixture.try_open(options).expect("opens");
        assert_eq!(
            fixture.heartbeat_times(3),
            expected,
            "{says} {period} {expiry}"
        );
    }
}

#[test]
fn brief_heartbeat_failures_send_no_event_and_stop_no_heartbeats() {
    for failure in [
        LOST,
        Reply::Fails(TransportErrorKind::Tls, Sent::NotSent),
        Reply::Fails(TransportErrorKind::Broken, Sent::MaybeSent),
        Reply::Status(400, r#"{"detail": "bad session heartbeat"}"#),
        Reply::Status(401, r#"{"detail": "no such key"}"#),
        Reply::Status(403, "{}"),
        Reply::Status(404, r#"{"detail": "Not Found"}"#),
        Reply::Status(404, ""),
        Reply::Status(429, "{}"),
        Reply::Status(500, "session lost its mind"),
        Reply::Status(503, "<html>starting</html>"),
    ] {
        let fixture = Fixture::new();
        let session = fixture.open();
        let mut events = session.events();
        fixture.server.script(HEARTBEAT, [failure; 5]);
        // 50 s without a heartbeat, of an expiry of 120 s, send no event. Each heartbeat has one attempt.
        let times = fixture.heartbeat_times(7);
        let tens = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0];
        assert_eq!(times, tens, "{failure:?}");
        session.check_open().expect("open");
        assert_eq!(events.latest(), None, "{failure:?}");
        drop(session);
        assert_eq!(fixture.drive(events.next()), None, "{failure:?}");
    }
}

#[test]
fn hanging_heartbeat_times_out_after_ten_seconds() {
    let fixture = Fixture::new();
    let session = fixture.open();
    fixture
        .server
        .script(HEARTBEAT, [Reply::Hangs, Reply::Hangs]);
    assert_eq!(fixture.heartbeat_times(4), [10.0, 30.0, 50.0, 60.0]);
    assert_eq!(session.events().latest(), None);
}

#[test]
fn second_heartbeat_is_sent_before_session_expiry_if_the_first_hangs() {
    for expiry in [3, 6, 15, 30, 60, 120] {
        let fixture = Fixture::new();
        fixture.server.set_default(HEARTBEAT, Reply::Hangs);
        let options = SessionOptions {
            expiry: Duration::from_secs(expiry),
            ..SessionOptions::default()
        };
        let _session = fixture.try_open(options).expect("opens");
        let times = fixture.heartbeat_times(2);
        assert!(
            times[1] < expiry as f64,
            "expiry {expiry}: the second at {}",
            times[1]
        );
    }
}

#[test]
fn session_is_at_risk_from_half_its_expiry_until_a_heartbeat_succeeds() {
    let fixture = Fixture::new();
    let session = fixture.open();
    let mut events = session.events();
    fixture.server.script(HEARTBEAT, [LOST; 8]);
    // Half of the 120 s, counted from the opening, have passed at 60 s.
    let mut received = Vec::new();
    for _ in 0..4 {
        let event = fixture.drive(events.next());
        received.push((fixture.clock_seconds(), event));
    }
    assert_eq!(
        received,
        [
            (60.0, at_risk(60)),
            (70.0, at_risk(50)),
            (80.0, at_risk(40)),
            (90.0, Some(SessionEvent::Recovered)),
        ]
    );
    session.check_open().expect("open");
    // A second failure is counted from the last success, and further successes send no event.
    fixture.heartbeat_times(11);
    fixture.server.set_default(HEARTBEAT, LOST);
    assert_eq!(fixture.drive(events.next()), at_risk(60));
    assert_eq!(fixture.clock_seconds(), 110.0 + 60.0);
}

#[test]
fn session_at_risk_event_after_the_expiry_has_zero_time_left() {
    let fixture = Fixture::new();
    let session = fixture.open();
    fixture.server.set_default(HEARTBEAT, LOST);
    fixture.heartbeat_times(14);
    fixture.run_tasks();
    assert_eq!(fixture.clock_seconds(), 140.0);
    assert_eq!(session.events().latest(), at_risk(0));
    // Only the server can end a session: the cause may be the network.
    session.check_open().expect("open");
    fixture
        .server
        .set_default(HEARTBEAT, Reply::Status(200, "{}"));
    fixture.heartbeat_times(15);
    fixture.run_tasks();
    assert_eq!(session.events().latest(), Some(SessionEvent::Recovered));
}

#[test]
fn session_lost_on_the_server_sends_one_ended_event() {
    for response in [
        Reply::Status(410, r#"{"detail": "gone"}"#),
        Reply::Status(410, ""),
        Reply::Status(404, r#"{"detail": "Session session-1 not found"}"#),
        Reply::Status(404, r#"{"error": "unknown session"}"#),
    ] {
        let fixture = Fixture::new();
        let session = fixture.open();
        let mut events = session.events();
        fixture.heartbeat_times(2);
        fixture.server.set_default(HEARTBEAT, response);
        let ended = Some(SessionEvent::Ended);
        assert_eq!(fixture.drive(events.next()), ended, "{response:?}");
        assert_eq!(
            fixture.clock_seconds(),
            30.0,
            "at the heartbeat that reports the end"
        );
        assert_eq!(fixture.drive(events.next()), None, "{response:?}");
        assert_eq!(
            fixture.drive(session.events().next()),
            ended,
            "late subscriber"
        );
        assert_eq!(
            fixture.heartbeat.running(),
            0,
            "heartbeats stop: {response:?}"
        );

        let requests = fixture.server.requests().len();
        let error = fixture
            .drive(session.capabilities())
            .expect_err("the session is lost");
        assert_eq!(error.kind(), ErrorKind::SessionLost);
        assert_eq!(error.sent(), Sent::NotSent);
        assert!(error.to_string().contains("ended on the server"), "{error}");
        let closed = fixture.drive(session.close(FinishReason::Success, None));
        closed.expect("a lost session needs no finish");
        assert_eq!(
            fixture.server.requests().len(),
            requests,
            "nothing more is sent"
        );
        fixture.assert_idle();
    }
}

#[test]
fn session_on_a_server_without_heartbeats_is_not_at_risk() {
    let missing = Reply::Status(405, r#"{"detail": "Method Not Allowed"}"#);
    let fixture = Fixture::new();
    fixture.server.set_default(HEARTBEAT, missing);
    let session = fixture.open();
    fixture.heartbeat_times(20);
    assert_eq!(session.events().latest(), None);
    let recovered = session.recovered_errors();
    assert_eq!(recovered.of(RecoveredError::MissingRoute), 1);

    // A server that has accepted a heartbeat has the route.
    let fixture = Fixture::new();
    let session = fixture.open();
    fixture.heartbeat_times(1);
    fixture.server.set_default(HEARTBEAT, missing);
    fixture.heartbeat_times(20);
    assert_eq!(session.events().latest(), at_risk(0));
}

#[test]
fn heartbeat_404_for_a_missing_route_does_not_end_the_session() {
    for body in [
        r#"{"detail": "no route for POST /api/v1/session_heartbeat"}"#,
        "Cannot POST /api/v1/session_heartbeat",
        "404 page not found",
    ] {
        let fixture = Fixture::new();
        let session = fixture.open();
        fixture
            .server
            .set_default(HEARTBEAT, Reply::Status(404, body));
        assert_eq!(fixture.heartbeat_times(3), [10.0, 20.0, 30.0], "{body}");
        session.check_open().expect(body);
    }
}

#[test]
fn heartbeat_retry_delay_is_followed_up_to_a_third_of_session_expiry() {
    for (hint, expected) in [
        (Reply::Header(429, "retry-after", "600"), 50.0),
        (Reply::Header(429, "retry-after-ms", "3600000"), 50.0),
        (Reply::Status(429, r#"{"retry_after_ms": 1e12}"#), 50.0),
        (Reply::Header(429, "retry-after", "40"), 50.0),
        (Reply::Header(429, "retry-after", "25"), 35.0),
        (Reply::Header(503, "retry-after", "25"), 35.0),
        // A date, on a clock whose origin is the Unix epoch.
        (
            Reply::Header(429, "retry-after", "Thu, 01 Jan 1970 00:00:33 GMT"),
            33.0,
        ),
        (Reply::Header(429, "retry-after", "1"), 20.0),
        (Reply::Header(429, "retry-after", "-5"), 20.0),
        (Reply::Header(429, "retry-after", "soon"), 20.0),
        (Reply::Status(429, "{}"), 20.0),
    ] {
        let fixture = Fixture::new();
        let _session = fixture.open();
        fixture.server.script(HEARTBEAT, [hint]);
        // The `retry-after` hint applies to one interval only.
        let times = fixture.heartbeat_times(3);
        assert_eq!(times, [10.0, expected, expected + 10.0], "{hint:?}");
    }
}

#[test]
fn heartbeat_retry_delay_is_capped_by_a_short_session_expiry() {
    let fixture = Fixture::new();
    let says = Reply::Status(200, r#"{"session_expiry_sec": 45}"#);
    fixture.server.set_default(routes::CLIENT_CONFIG, says);
    let hint = Reply::Header(429, "retry-after", "600");
    fixture.server.set_default(HEARTBEAT, hint);
    let _session = fixture.open();
    assert_eq!(fixture.heartbeat_times(3), [10.0, 25.0, 40.0]);
}

#[test]
fn rate_limited_heartbeat_does_not_delay_other_requests() {
    let fixture = Fixture::new();
    let session = fixture.open();
    let hint = Reply::Header(429, "retry-after", "600");
    fixture.server.set_default(HEARTBEAT, hint);
    fixture.heartbeat_times(1);
    let models = Reply::Status(200, r#"{"supported_models": [{"model_name": "m"}]}"#);
    fixture.server.set_default(routes::CAPABILITIES, models);
    fixture.drive(session.capabilities()).expect("a response");
    fixture.drive(session.health()).expect("a response");
    assert_eq!(fixture.clock_seconds(), 10.0, "no wait");
}

#[test]
fn sessions_of_one_endpoint_have_separate_heartbeats() {
    let fixture = Fixture::new();
    let _first = fixture.open();
    let second = Reply::Status(200, r#"{"session_id": "session-2"}"#);
    fixture.server.script(routes::CREATE_SESSION, [second]);
    let lost = fixture.open();
    assert_eq!(fixture.endpoints.len(), 1);
    fixture.server.script(
        HEARTBEAT,
        [Reply::Status(200, "{}"), Reply::Status(410, "")],
    );
    fixture.heartbeat_times(2);
    fixture.run_tasks();
    let names: Vec<_> = fixture
        .server
        .requests_to(HEARTBEAT)
        .iter()
        .map(|heartbeat| heartbeat.body()["session_id"].clone())
        .collect();
    assert_eq!(names, ["session-1", "session-2"]);
    assert_eq!(lost.events().latest(), Some(SessionEvent::Ended));
    // The other session stays open.
    assert_eq!(fixture.heartbeat_times(4), [10.0, 10.0, 20.0, 30.0]);
    let later = fixture.server.requests_to(HEARTBEAT).split_off(2);
    assert!(
        later
            .iter()
            .all(|heartbeat| heartbeat.body()["session_id"] == "session-1")
    );
}
