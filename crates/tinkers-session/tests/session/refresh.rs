//! The refresh of dynamic flags: its pace, and that what cannot be fetched changes nothing.

use serde_json::json;
use tinkers_core::{RouteClass, Sent, SessionContext, TransportErrorKind};
use tinkers_session::Session;
use tinkers_wire::{SDK_VERSION, routes};

use crate::support::{Line, Reply, World};

const FLAGS: &str = routes::DYNAMIC_CONFIG;

/// The moments at which flags were asked for, in seconds, once there are `count`.
fn fetches(world: &World, count: usize) -> Vec<f64> {
    world.until(|server| server.on_path(FLAGS).len() >= count);
    world.settle();
    let asked = world.server.on_path(FLAGS);
    asked.iter().map(|asked| asked.seconds()).collect()
}

/// The three flags, to be compared as one.
fn flags(session: &Session) -> (u64, bool, u32) {
    let flags = session.dynamic_config();
    (
        flags.refresh_interval_sec,
        flags.sample_cancel_enabled,
        flags.sample_cancel_max_batch_size,
    )
}

#[test]
fn flags_are_fetched_at_the_pace_that_the_last_ones_name() {
    for (interval, expected) in [
        ("{}", [0.0, 300.0, 600.0]),
        (r#"{"refresh_interval_sec": 45}"#, [0.0, 45.0, 90.0]),
        (r#"{"refresh_interval_sec": 0}"#, [0.0, 10.0, 20.0]),
        (r#"{"refresh_interval_sec": 3}"#, [0.0, 10.0, 20.0]),
    ] {
        let world = World::new();
        world.server.usually(FLAGS, Reply::Status(200, interval));
        let _session = world.open();
        assert_eq!(fetches(&world, 3), expected, "{interval}");
        for asked in world.server.on_path(FLAGS) {
            assert_eq!(asked.body(), json!({"sdk_version": SDK_VERSION}));
            assert_eq!(asked.request.class, RouteClass::Control);
            assert_eq!(asked.line, Line::Main);
        }
    }
}

#[test]
fn new_flags_replace_the_old_ones_and_their_pace() {
    let world = World::new();
    let first = Reply::Status(200, r#"{"refresh_interval_sec": 20}"#);
    let second = Reply::Status(
        200,
        r#"{"refresh_interval_sec": 70, "sample_cancel_enabled": true, "sample_cancel_max_batch_size": 5}"#,
    );
    world.server.next(FLAGS, [first]);
    world.server.usually(FLAGS, second);
    let session = world.open();
    assert_eq!(flags(&session), (20, false, 64));
    assert_eq!(fetches(&world, 3), [0.0, 20.0, 90.0]);
    assert_eq!(flags(&session), (70, true, 5));
}

#[test]
fn a_refresh_that_fails_keeps_the_last_good_flags_and_their_pace() {
    for failure in [
        Reply::Fails(TransportErrorKind::Connect, Sent::NotSent),
        Reply::Fails(TransportErrorKind::Broken, Sent::MaybeSent),
        Reply::Panics,
        Reply::Status(401, "{}"),
        Reply::Status(404, r#"{"detail": "Not Found"}"#),
        Reply::Status(500, "{}"),
        Reply::Header(429, "retry-after", "20"),
        Reply::Status(200, ""),
        Reply::Status(200, "[]"),
        Reply::Status(200, "<html>login</html>"),
        Reply::Status(200, r#"{"refresh_interval_sec": "often"}"#),
    ] {
        let world = World::new();
        let good = Reply::Status(
            200,
            r#"{"refresh_interval_sec": 30, "sample_cancel_enabled": true, "sample_cancel_max_batch_size": 9}"#,
        );
        world.server.next(FLAGS, [good, failure, failure]);
        let better = Reply::Status(200, r#"{"refresh_interval_sec": 50}"#);
        world.server.usually(FLAGS, better);
        let session = world.open();
        // One attempt each time, and no failure changes when the next one comes.
        assert_eq!(fetches(&world, 3), [0.0, 30.0, 60.0], "{failure:?}");
        assert_eq!(flags(&session), (30, true, 9), "{failure:?}");
        assert_eq!(fetches(&world, 4)[3], 90.0, "{failure:?}");
        assert_eq!(flags(&session), (50, false, 64), "{failure:?}");
        session.check_open().expect("open");
        assert_eq!(session.events().latest(), None, "it is no event");
    }
}

#[test]
fn a_hint_is_followed_up_to_a_third_of_the_expiry() {
    for (hint, pause) in [("35", 35.0), ("600", 40.0)] {
        let world = World::new();
        let good = Reply::Status(200, r#"{"refresh_interval_sec": 30}"#);
        world.server.usually(FLAGS, good);
        world
            .server
            .next(FLAGS, [good, Reply::Header(429, "retry-after", hint)]);
        let _session = world.open();
        // The hint holds for one pause; the next is the usual one.
        let expected = [0.0, 30.0, 30.0 + pause, 60.0 + pause];
        assert_eq!(fetches(&world, 4), expected, "{hint}");
    }
}

#[test]
fn whoever_holds_flags_keeps_them_while_newer_ones_come() {
    let world = World::new();
    let session = world.open();
    let held = session.dynamic_config();
    let newer = Reply::Status(200, r#"{"sample_cancel_enabled": true}"#);
    world.server.usually(FLAGS, newer);
    fetches(&world, 2);
    assert!(!held.sample_cancel_enabled);
    assert!(session.dynamic_config().sample_cancel_enabled);
}
