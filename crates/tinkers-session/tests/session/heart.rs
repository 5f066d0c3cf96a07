//! Heartbeats: when they come, what a failure means, what is told of it, and when they end.

use std::time::Duration;

use http::Method;
use serde_json::json;
use tinkers_core::{ErrorKind, RouteClass, Sent, SessionContext, TransportErrorKind};
use tinkers_session::{SessionEvent, SessionOptions};
use tinkers_wire::{FinishReason, routes};

use crate::support::{Line, Reply, World};

const BEAT: &str = routes::SESSION_HEARTBEAT;
const LOST: Reply = Reply::Fails(TransportErrorKind::Connect, Sent::NotSent);

const fn at_risk(seconds: u64) -> Option<SessionEvent> {
    Some(SessionEvent::AtRisk {
        time_left: Duration::from_secs(seconds),
    })
}

#[test]
fn a_heart_beats_every_ten_seconds_on_its_own_line_and_names_its_session_alone() {
    let world = World::new();
    let session = world.open();
    assert_eq!(world.beats(4), [10.0, 20.0, 30.0, 40.0]);
    for beat in world.server.on_line(Line::Heart) {
        assert_eq!(beat.path(), BEAT);
        assert_eq!(beat.request.method, Method::POST);
        assert_eq!(beat.request.class, RouteClass::Control);
        assert_eq!(beat.request.timeouts.total, Duration::from_secs(10));
        assert_eq!(beat.header("content-type"), Some("application/json"));
        assert_eq!(beat.body(), json!({"session_id": "session-1"}));
    }
    assert_eq!(world.server.on_line(Line::Main).len(), 4, "the opening");
    assert_eq!(session.events().latest(), None);
}

#[test]
fn a_heart_goes_on_after_a_panic_below_it() {
    let world = World::new();
    world.server.next(BEAT, [Reply::Panics]);
    let session = world.open();
    assert_eq!(world.beats(3), [10.0, 20.0, 30.0]);
    session.check_open().expect("open");
}

/// A log subscriber that panics.
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
        std::panic::resume_unwind(Box::new("a subscriber that breaks"));
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn heartbeats_go_on_after_a_log_subscriber_panics() {
    let world = World::new();
    let session = world.open();
    world.server.next(BEAT, [LOST]);
    let beats = tracing::subscriber::with_default(Panics, || world.beats(3));
    assert_eq!(beats, [10.0, 20.0, 30.0]);
    session.check_open().expect("open");
}

#[test]
fn the_pause_is_what_was_asked_for_and_a_third_of_the_expiry_at_most() {
    let seconds = Duration::from_secs;
    for (says, period, expiry, expected) in [
        ("{}", 25, 120, [25.0, 50.0, 75.0]),
        ("{}", 100, 120, [40.0, 80.0, 120.0]),
        ("{}", 10, 6, [2.0, 4.0, 6.0]),
        // What the server says counts more than what the caller takes it to be, unless it says nothing of use.
        (r#"{"session_expiry_sec": 15}"#, 10, 120, [5.0, 10.0, 15.0]),
        (
            r#"{"session_expiry_sec": 600}"#,
            100,
            120,
            [100.0, 200.0, 300.0],
        ),
        (r#"{"session_expiry_sec": 0}"#, 10, 120, [10.0, 20.0, 30.0]),
    ] {
        let world = World::new();
        let reply = Reply::Status(200, says);
        world.server.usually(routes::CLIENT_CONFIG, reply);
        let options = SessionOptions {
            heartbeat_period: seconds(period),
            expiry: seconds(expiry),
            ..SessionOptions::default()
        };
        let _session = world.try_open(options).expect("opens");
        assert_eq!(world.beats(3), expected, "{says} {period} {expiry}");
    }
}

#[test]
fn no_failure_stops_the_heart_and_a_short_one_is_no_event() {
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
        let world = World::new();
        let session = world.open();
        let mut events = session.events();
        world.server.next(BEAT, [failure; 5]);
        // Silent for up to fifty seconds of 120, then taken again: nothing worth an event. Each is tried once.
        let beats = world.beats(7);
        let tens = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0];
        assert_eq!(beats, tens, "{failure:?}");
        session.check_open().expect("open");
        assert_eq!(events.latest(), None, "{failure:?}");
        drop(session);
        assert_eq!(world.drive(events.next()), None, "{failure:?}");
    }
}

#[test]
fn a_heartbeat_without_an_answer_is_given_up_after_ten_seconds() {
    let world = World::new();
    let session = world.open();
    world.server.next(BEAT, [Reply::Hangs, Reply::Hangs]);
    assert_eq!(world.beats(4), [10.0, 30.0, 50.0, 60.0]);
    assert_eq!(session.events().latest(), None);
}

#[test]
fn a_heartbeat_that_hangs_leaves_time_for_another_however_short_the_expiry() {
    for expiry in [3, 6, 15, 30, 60, 120] {
        let world = World::new();
        world.server.usually(BEAT, Reply::Hangs);
        let options = SessionOptions {
            expiry: Duration::from_secs(expiry),
            ..SessionOptions::default()
        };
        let _session = world.try_open(options).expect("opens");
        let beats = world.beats(2);
        assert!(
            beats[1] < expiry as f64,
            "expiry {expiry}: the second at {}",
            beats[1]
        );
    }
}

#[test]
fn silence_for_half_the_expiry_is_a_risk_with_the_time_left_until_one_gets_through() {
    let world = World::new();
    let session = world.open();
    let mut events = session.events();
    world.server.next(BEAT, [LOST; 8]);
    // The session counts from its start: at 60 s half of the 120 s are gone.
    let mut told = Vec::new();
    for _ in 0..4 {
        let event = world.drive(events.next());
        told.push((world.clock_seconds(), event));
    }
    assert_eq!(
        told,
        [
            (60.0, at_risk(60)),
            (70.0, at_risk(50)),
            (80.0, at_risk(40)),
            (90.0, Some(SessionEvent::Recovered)),
        ]
    );
    session.check_open().expect("open");
    // A second silence counts from the last success, and a further success while nothing is wrong is no event.
    world.beats(11);
    world.server.usually(BEAT, LOST);
    assert_eq!(world.drive(events.next()), at_risk(60));
    assert_eq!(world.clock_seconds(), 110.0 + 60.0);
}

#[test]
fn a_risk_is_told_past_the_expiry_too_with_no_time_left() {
    let world = World::new();
    let session = world.open();
    world.server.usually(BEAT, LOST);
    world.beats(14);
    world.settle();
    assert_eq!(world.clock_seconds(), 140.0);
    assert_eq!(session.events().latest(), at_risk(0));
    // Only the server can end a session: it may have been the network alone.
    session.check_open().expect("open");
    world.server.usually(BEAT, Reply::Status(200, "{}"));
    world.beats(15);
    world.settle();
    assert_eq!(session.events().latest(), Some(SessionEvent::Recovered));
}

#[test]
fn a_session_that_the_server_has_ended_is_over_here_and_says_so_once() {
    for answer in [
        Reply::Status(410, r#"{"detail": "gone"}"#),
        Reply::Status(410, ""),
        Reply::Status(404, r#"{"detail": "Session session-1 not found"}"#),
        Reply::Status(404, r#"{"error": "unknown session"}"#),
    ] {
        let world = World::new();
        let session = world.open();
        let mut events = session.events();
        world.beats(2);
        world.server.usually(BEAT, answer);
        let ended = Some(SessionEvent::Ended);
        assert_eq!(world.drive(events.next()), ended, "{answer:?}");
        assert_eq!(world.clock_seconds(), 30.0, "at the beat that said so");
        assert_eq!(world.drive(events.next()), None, "{answer:?}");
        assert_eq!(
            world.drive(session.events().next()),
            ended,
            "who comes late"
        );
        assert_eq!(world.heart.running(), 0, "the heart stops: {answer:?}");

        let asked = world.server.asked().len();
        let error = world.drive(session.capabilities()).expect_err("it is over");
        assert_eq!(error.kind(), ErrorKind::SessionLost);
        assert_eq!(error.sent(), Sent::NotSent);
        assert!(error.to_string().contains("ended on the server"), "{error}");
        let closed = world.drive(session.close(FinishReason::Success, None));
        closed.expect("there is nothing to finish");
        assert_eq!(world.server.asked().len(), asked, "nothing more is sent");
        world.assert_at_rest();
    }
}

#[test]
fn a_missing_route_is_not_taken_for_a_missing_session() {
    for body in [
        r#"{"detail": "no route for POST /api/v1/session_heartbeat"}"#,
        "Cannot POST /api/v1/session_heartbeat",
        "404 page not found",
    ] {
        let world = World::new();
        let session = world.open();
        world.server.usually(BEAT, Reply::Status(404, body));
        assert_eq!(world.beats(3), [10.0, 20.0, 30.0], "{body}");
        session.check_open().expect(body);
    }
}

#[test]
fn a_hint_is_followed_up_to_a_third_of_the_expiry_and_never_shortens_the_pause() {
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
        let world = World::new();
        let _session = world.open();
        world.server.next(BEAT, [hint]);
        // The hint holds for one pause; the next is the usual one.
        let beats = world.beats(3);
        assert_eq!(beats, [10.0, expected, expected + 10.0], "{hint:?}");
    }
}

#[test]
fn a_hint_never_outlasts_a_session_that_lives_shorter_than_usual() {
    let world = World::new();
    let says = Reply::Status(200, r#"{"session_expiry_sec": 45}"#);
    world.server.usually(routes::CLIENT_CONFIG, says);
    let hint = Reply::Header(429, "retry-after", "600");
    world.server.usually(BEAT, hint);
    let _session = world.open();
    assert_eq!(world.beats(3), [10.0, 25.0, 40.0]);
}

#[test]
fn a_refused_heartbeat_holds_up_nothing_else() {
    let world = World::new();
    let session = world.open();
    let hint = Reply::Header(429, "retry-after", "600");
    world.server.usually(BEAT, hint);
    world.beats(1);
    let models = Reply::Status(200, r#"{"supported_models": [{"model_name": "m"}]}"#);
    world.server.usually(routes::CAPABILITIES, models);
    world.drive(session.capabilities()).expect("answered");
    world.drive(session.health()).expect("answered");
    assert_eq!(world.clock_seconds(), 10.0, "neither had to wait");
}

#[test]
fn two_sessions_of_one_endpoint_each_have_a_heart() {
    let world = World::new();
    let _first = world.open();
    let second = Reply::Status(200, r#"{"session_id": "session-2"}"#);
    world.server.next(routes::CREATE_SESSION, [second]);
    let dying = world.open();
    assert_eq!(world.endpoints.len(), 1);
    world
        .server
        .next(BEAT, [Reply::Status(200, "{}"), Reply::Status(410, "")]);
    world.beats(2);
    world.settle();
    let names: Vec<_> = world
        .server
        .on_path(BEAT)
        .iter()
        .map(|beat| beat.body()["session_id"].clone())
        .collect();
    assert_eq!(names, ["session-1", "session-2"]);
    assert_eq!(dying.events().latest(), Some(SessionEvent::Ended));
    // The end of one is not the end of the other.
    assert_eq!(world.beats(4), [10.0, 10.0, 20.0, 30.0]);
    let later = world.server.on_path(BEAT).split_off(2);
    assert!(
        later
            .iter()
            .all(|beat| beat.body()["session_id"] == "session-1")
    );
}
