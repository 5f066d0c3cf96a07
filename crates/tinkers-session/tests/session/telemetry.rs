//! The telemetry of a session: its events, its batches, and the number of events in each state.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tinkers_core::{Error, ErrorKind, RecoveredError, Sent, SessionContext, TransportErrorKind};
use tinkers_session::{Session, SessionOptions, TelemetryCounts};
use tinkers_wire::{FinishReason, SDK_VERSION, routes};

use crate::support::{Fixture, Reply};

fn open(fixture: &Fixture) -> Arc<Session> {
    let options = SessionOptions {
        telemetry: true,
        ..SessionOptions::default()
    };
    fixture.try_open(options).expect("the session opens")
}

fn close(fixture: &Fixture, session: &Session) {
    let closed = session.close(FinishReason::Success, None);
    fixture.drive(closed).expect("closed");
}

/// Records `count` failed operations. Their error messages contain secrets, which no event may contain.
fn fail(session: &Session, count: usize) {
    for _ in 0..count {
        let error = Error::new(ErrorKind::Rejected, Sent::Answered, "tml-secret my prompt");
        session.operation_failed("SamplingClient.sample", &error);
    }
}

/// Returns the bodies of the reports that the server has received.
fn reports(fixture: &Fixture) -> Vec<Value> {
    let requests = fixture.server.requests_to(routes::TELEMETRY);
    requests.iter().map(|request| request.body()).collect()
}

fn events(report: &Value) -> &Vec<Value> {
    report["events"].as_array().expect("an array")
}

/// Returns the counts, and checks that they add up.
fn counts(session: &Session) -> TelemetryCounts {
    let counts = session.telemetry();
    let sum = counts.sent + counts.dropped + counts.queued;
    assert_eq!(counts.accepted, sum, "{counts:?}");
    counts
}

#[test]
fn session_without_telemetry_reports_no_events() {
    let fixture = Fixture::new();
    let session = fixture.open();
    fail(&session, 200);
    close(&fixture, &session);
    assert_eq!(reports(&fixture), [] as [Value; 0]);
    assert_eq!(session.telemetry(), TelemetryCounts::default());
}

#[test]
fn telemetry_reports_the_start_a_failure_and_the_end_of_a_session() {
    let fixture = Fixture::new();
    let session = open(&fixture);
    fixture.run_until(|server| !server.requests_to(routes::TELEMETRY).is_empty());
    let at = fixture.server.requests_to(routes::TELEMETRY)[0].seconds();
    assert_eq!(at, 10.0, "a single event waits for more events");
    fail(&session, 1);
    close(&fixture, &session);
    let reports = reports(&fixture);
    assert_eq!(reports.len(), 2);
    for report in &reports {
        assert_eq!(report["session_id"], "session-1");
        assert_eq!(report["sdk_version"], SDK_VERSION);
        assert_eq!(report["process_uuid"], reports[0]["process_uuid"]);
    }
    let start = &events(&reports[0])[0];
    assert_eq!(start["event"], "SESSION_START");
    assert_eq!(start["timestamp"], "1970-01-01T00:00:00.000000Z");
    let [failure, recovered, end] = &events(&reports[1])[..] else {
        panic!("{reports:?}");
    };
    assert_eq!(failure["event_name"], "operation_failed");
    let data =
        json!({ "operation": "SamplingClient.sample", "kind": "Rejected", "status_code": null });
    assert_eq!(failure["event_data"], data);
    // The fake server has no OpenAPI document.
    assert_eq!(recovered["event_data"], json!({ "document": 1 }));
    assert_eq!(end["event"], "SESSION_END");
    assert_eq!(end["duration"], "0:00:10");
    let numbers: Vec<_> = reports
        .iter()
        .flat_map(events)
        .map(|event| event["event_session_index"].clone())
        .collect();
    assert_eq!(numbers, [0, 1, 2, 3]);
    let text = format!("{reports:?}");
    assert!(
        !text.contains("secret") && !text.contains("prompt"),
        "{text}"
    );
    assert_eq!(counts(&session).sent, 4);
    fixture.assert_idle();
}

#[test]
fn telemetry_sends_full_batches_at_once() {
    let fixture = Fixture::new();
    let session = open(&fixture);
    fail(&session, 250);
    fixture.run_tasks();
    let lengths = |fixture: &Fixture| -> Vec<_> {
        reports(fixture)
            .iter()
            .map(|report| events(report).len())
            .collect()
    };
    assert_eq!(lengths(&fixture), [100, 100]);
    assert_eq!(fixture.clock_seconds(), 0.0);
    assert_eq!(counts(&session).queued, 51);
    fixture.run_until(|server| server.requests_to(routes::TELEMETRY).len() == 3);
    assert_eq!(lengths(&fixture), [100, 100, 51]);
    assert_eq!(fixture.clock_seconds(), 10.0);
}

#[test]
fn telemetry_queue_is_bounded_and_counts_dropped_events() {
    let fixture = Fixture::new();
    fixture.server.set_default(routes::TELEMETRY, Reply::Hangs);
    let session = open(&fixture);
    fail(&session, 150);
    fixture.run_tasks();
    fail(&session, 20_000);
    let full = counts(&session);
    assert_eq!((full.queued, full.sent), (10_000, 0));
    assert_eq!(full.accepted, 20_151);
}

#[test]
fn failed_telemetry_report_drops_its_events_and_is_counted() {
    for failure in [
        Reply::Fails(TransportErrorKind::Connect, Sent::NotSent),
        Reply::Status(500, "{}"),
        Reply::Status(429, "{}"),
        Reply::Hangs,
        Reply::Panics,
    ] {
        let fixture = Fixture::new();
        fixture.server.script(routes::TELEMETRY, [failure]);
        let session = open(&fixture);
        fail(&session, 99);
        fixture.run_until(|_| session.telemetry().dropped > 0);
        assert_eq!(counts(&session).dropped, 100, "{failure:?}");
        assert_eq!(session.recovered_errors().of(RecoveredError::Telemetry), 1);
        fail(&session, 1);
        close(&fixture, &session);
        let end = counts(&session);
        assert_eq!((end.sent, end.queued), (3, 0), "{failure:?}");
        let report = reports(&fixture).pop().expect("a report");
        assert_eq!(events(&report)[1]["event_data"]["telemetry"], 1);
    }
}

#[test]
fn telemetry_ends_if_the_server_has_no_route_for_it() {
    for status in [404, 405, 501] {
        let fixture = Fixture::new();
        let missing = Reply::Status(status, r#"{"detail": "Not Found"}"#);
        fixture.server.set_default(routes::TELEMETRY, missing);
        let session = open(&fixture);
        fixture.run_until(|server| !server.requests_to(routes::TELEMETRY).is_empty());
        fixture.run_tasks();
        fail(&session, 500);
        close(&fixture, &session);
        assert_eq!(reports(&fixture).len(), 1, "{status}");
        let end = counts(&session);
        assert_eq!((end.sent, end.queued), (0, 0));
        fixture.assert_idle();
    }
}

#[test]
fn session_close_waits_for_telemetry_for_a_bounded_time() {
    let fixture = Fixture::new();
    fixture.server.set_default(routes::TELEMETRY, Reply::Hangs);
    let session = open(&fixture);
    fail(&session, 250);
    let before = fixture.clock.clone();
    close(&fixture, &session);
    let at = tinkers_core::Clock::now(&before).since_origin();
    assert!(at <= Duration::from_secs(5), "{at:?}");
    assert_eq!(counts(&session).sent, 0);
    fixture.assert_idle();
}
