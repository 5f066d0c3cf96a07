//! The refresh of the dynamic configuration: its interval, and its failures.

use serde_json::json;
use tinkers_core::{RouteClass, Sent, SessionContext, TransportErrorKind};
use tinkers_session::Session;
use tinkers_wire::{SDK_VERSION, routes};

use crate::support::{Channel, Fixture, Reply};

const FLAGS: &str = routes::DYNAMIC_CONFIG;

/// Advances the clock until `count` requests for the dynamic configuration were sent. Returns their times in seconds.
fn refresh_times(fixture: &Fixture, count: usize) -> Vec<f64> {
    fixture.run_until(|server| server.requests_to(FLAGS).len() >= count);
    fixture.run_tasks();
    let requests = fixture.server.requests_to(FLAGS);
    requests.iter().map(|request| request.seconds()).collect()
}

/// Returns three settings of the session's dynamic configuration: the refresh interval in seconds, whether samples can be cancelled, and
/// the maximum number of samples that are cancelled concurrently.
fn flags(session: &Session) -> (u64, bool, u32) {
    let flags = session.dynamic_config();
    (
        flags.refresh_interval_sec,
        flags.sample_cancel_enabled,
        flags.sample_cancel_max_batch_size,
    )
}

#[test]
fn config_refresh_interval_is_set_by_the_server_and_at_least_10_s() {
    for (interval, expected) in [
        ("{}", [0.0, 300.0, 600.0]),
        (r#"{"refresh_interval_sec": 45}"#, [0.0, 45.0, 90.0]),
        (r#"{"refresh_interval_sec": 0}"#, [0.0, 10.0, 20.0]),
        (r#"{"refresh_interval_sec": 3}"#, [0.0, 10.0, 20.0]),
    ] {
        let fixture = Fixture::new();
        fixture
            .server
            .set_default(FLAGS, Reply::Status(200, interval));
        let _session = fixture.open();
        assert_eq!(refresh_times(&fixture, 3), expected, "{interval}");
        for request in fixture.server.requests_to(FLAGS) {
            assert_eq!(request.body(), json!({"sdk_version": SDK_VERSION}));
            assert_eq!(request.request.class, RouteClass::Control);
            assert_eq!(request.channel, Channel::Main);
        }
    }
}

#[test]
fn config_refresh_replaces_the_dynamic_config_and_the_refresh_interval() {
    let fixture = Fixture::new();
    let first = Reply::Status(200, r#"{"refresh_interval_sec": 20}"#);
    let second = Reply::Status(
        200,
        r#"{"refresh_interval_sec": 70, "sample_cancel_enabled": true, "sample_cancel_max_batch_size": 5}"#,
    );
    fixture.server.script(FLAGS, [first]);
    fixture.server.set_default(FLAGS, second);
    let session = fixture.open();
    assert_eq!(flags(&session), (20, false, 64));
    assert_eq!(refresh_times(&fixture, 3), [0.0, 20.0, 90.0]);
    assert_eq!(flags(&session), (70, true, 5));
}

#[test]
fn failed_refresh_keeps_the_dynamic_config_and_the_refresh_interval() {
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
    ] {
        let fixture = Fixture::new();
        let good = Reply::Status(
            200,
            r#"{"refresh_interval_sec": 30, "sample_cancel_enabled": true, "sample_cancel_max_batch_size": 9}"#,
        );
        fixture.server.script(FLAGS, [good, failure, failure]);
        let better = Reply::Status(200, r#"{"refresh_interval_sec": 50}"#);
        fixture.server.set_default(FLAGS, better);
        let session = fixture.open();
        // Each refresh has one attempt, and a failure does not change the interval.
        assert_eq!(refresh_times(&fixture, 3), [0.0, 30.0, 60.0], "{failure:?}");
        assert_eq!(flags(&session), (30, true, 9), "{failure:?}");
        assert_eq!(refresh_times(&fixture, 4)[3], 90.0, "{failure:?}");
        assert_eq!(flags(&session), (50, false, 64), "{failure:?}");
        session.check_open().expect("open");
        assert_eq!(session.events().latest(), None, "no event");
    }
}

#[test]
fn config_refresh_follows_retry_delays_up_to_a_third_of_expiry() {
    for (hint, pause) in [("35", 35.0), ("600", 40.0)] {
        let fixture = Fixture::new();
        let good = Reply::Status(200, r#"{"refresh_interval_sec": 30}"#);
        fixture.server.set_default(FLAGS, good);
        fixture
            .server
            .script(FLAGS, [good, Reply::Header(429, "retry-after", hint)]);
        let _session = fixture.open();
        // The hint applies to one interval only.
        let expected = [0.0, 30.0, 30.0 + pause, 60.0 + pause];
        assert_eq!(refresh_times(&fixture, 4), expected, "{hint}");
    }
}

#[test]
fn dynamic_config_snapshot_is_not_changed_by_a_refresh() {
    let fixture = Fixture::new();
    let session = fixture.open();
    let held = session.dynamic_config();
    let newer = Reply::Status(200, r#"{"sample_cancel_enabled": true}"#);
    fixture.server.set_default(FLAGS, newer);
    refresh_times(&fixture, 2);
    assert!(!held.sample_cancel_enabled);
    assert!(session.dynamic_config().sample_cancel_enabled);
}
