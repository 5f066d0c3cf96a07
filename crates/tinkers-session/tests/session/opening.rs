//! The opening of a session: its requests, and the responses that make the opening fail.

use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::Method;
use serde_json::json;
use tinkers_core::{
    Deduplication, ErrorKind, RouteClass, Sent, SessionContext, TransportErrorKind,
};
use tinkers_session::{Session, SessionOptions};
use tinkers_wire::{ApiDocument, FinishReason, SDK_VERSION, routes};

use crate::support::{ADDRESS, Channel, Fixture, Recorded, Reply};

/// The routes of the requests that open a session, in the order in which they are sent.
const OPENING: [&str; 4] = [
    routes::CLIENT_CONFIG,
    ApiDocument::PATH,
    routes::DYNAMIC_CONFIG,
    routes::CREATE_SESSION,
];

/// The address of the hosted service.
const HOSTED: &str = "https://tinker.thinkingmachines.dev/services/tinker-prod";

fn paths(requests: &[Recorded]) -> Vec<&str> {
    let paths = requests.iter().map(Recorded::path);
    // The second path of the document, which is tried because the first request finds none.
    paths
        .filter(|path| *path != ApiDocument::API_PATH)
        .collect()
}

#[test]
fn session_open_sends_four_requests_in_order() {
    let fixture = Fixture::new();
    let session = fixture.open();
    let mut requests = fixture.server.requests();
    requests.retain(|request| request.path() != ApiDocument::API_PATH);
    assert_eq!(paths(&requests), OPENING);
    // Options that are not set are not sent.
    let config = json!({"sdk_version": SDK_VERSION});
    assert_eq!(requests[0].body(), config);
    assert_eq!(requests[1].request.body.len(), 0);
    assert_eq!(requests[2].body(), config);
    let bare = json!({"tags": [], "user_metadata": {}, "sdk_version": SDK_VERSION});
    assert_eq!(requests[3].body(), bare);
    let control = RouteClass::Control;
    let expected = [
        (Method::POST, control),
        (Method::GET, control),
        (Method::POST, control),
        (Method::POST, RouteClass::Rest),
    ];
    for (request, (method, class)) in requests.iter().zip(expected) {
        assert_eq!(request.request.method, method, "{}", request.path());
        assert_eq!(request.request.class, class, "{}", request.path());
        assert_eq!(request.channel, Channel::Main, "{}", request.path());
        let kind = (method == Method::POST).then_some("application/json");
        assert_eq!(request.header("content-type"), kind);
        assert_eq!(request.seconds(), 0.0, "no wait");
        assert_eq!(request.header("x-sdk-method"), None, "no public method");
    }
    assert_eq!(session.id(), "session-1");
    session.check_open().expect("open");
    assert_eq!(
        (fixture.heartbeat.running(), fixture.main.running()),
        // The refresh of the configuration and the cancellation of samples.
        (1, 2)
    );
}

#[test]
fn session_options_are_sent_unchanged() {
    let fixture = Fixture::new();
    let options = SessionOptions {
        tags: vec!["b".to_owned(), "a".to_owned()],
        user_metadata: BTreeMap::from([("run".to_owned(), "7".to_owned())]),
        project_id: Some("project-9".to_owned()),
        display_name: Some("Ünïcode \"name\"".to_owned()),
        ..SessionOptions::default()
    };
    let _session = fixture.try_open(options).expect("opens");
    assert_eq!(
        fixture.server.requests_to(routes::CREATE_SESSION)[0].body(),
        json!({
            "tags": ["b", "a"],
            "user_metadata": {"run": "7"},
            "sdk_version": SDK_VERSION,
            "project_id": "project-9",
            "display_name": "Ünïcode \"name\"",
        })
    );
}

#[test]
fn invalid_session_options_fail_before_any_request_is_sent() {
    let base = SessionOptions::default;
    let rows = [
        (
            "progress_deadline",
            SessionOptions {
                progress_deadline: Duration::ZERO,
                ..base()
            },
        ),
        (
            "heartbeat_period",
            SessionOptions {
                heartbeat_period: Duration::ZERO,
                ..base()
            },
        ),
        (
            "expiry",
            SessionOptions {
                expiry: Duration::ZERO,
                ..base()
            },
        ),
        (
            "project_id",
            SessionOptions {
                project_id: Some(" ".to_owned()),
                ..base()
            },
        ),
        (
            "display_name",
            SessionOptions {
                display_name: Some(String::new()),
                ..base()
            },
        ),
    ];
    for (field, options) in rows {
        let fixture = Fixture::new();
        let error = fixture.try_open(options).expect_err(field);
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{field}");
        assert_eq!(error.field(), Some(field));
        assert_eq!(error.sent(), Sent::NotSent, "{field}");
        assert!(fixture.server.requests().is_empty(), "{field}");
        fixture.assert_idle();
    }
}

#[test]
fn opening_on_a_non_tinker_server_fails_and_names_the_address() {
    for (status, body) in [
        (404, "<html>Not Found</html>"),
        (404, r#"{"detail": "Not Found"}"#),
        (405, "method not allowed"),
        (501, "<!DOCTYPE HTML><p>Unsupported method ('POST')."),
        (400, "<html>Bad Request</html>"),
        (200, "<!doctype html><p>Welcome</p>"),
        (200, ""),
        (200, "null"),
        (200, "[]"),
        (200, r#""ok""#),
        (200, r#"{"half": "an obj"#),
    ] {
        let fixture = Fixture::new();
        for route in OPENING {
            fixture
                .server
                .set_default(route, Reply::Status(status, body));
        }
        let error = fixture.open_error();
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{status} {body}");
        assert!(text.contains("no Tinker server"), "{status} {body}: {text}");
        assert!(text.contains(ADDRESS), "{status} {body}: {text}");
        assert!(text.contains("base_url"), "{status} {body}: {text}");
        assert_eq!(error.status(), Some(status), "{body}");
        assert_eq!(error.body(), body.as_bytes());
        assert_eq!(error.operation(), Some("ServiceClient.connect"));
        let created = fixture.server.requests_to(routes::CREATE_SESSION);
        assert_eq!(created.len(), 1, "one attempt");
        assert_eq!(fixture.clock_seconds(), 0.0, "no wait: {status} {body}");
        fixture.assert_idle();
    }
}

#[test]
fn opening_on_an_unreachable_server_fails_and_names_the_address() {
    for (failure, kind) in [
        (TransportErrorKind::Connect, ErrorKind::Connection),
        (TransportErrorKind::Timeout, ErrorKind::Timeout),
    ] {
        let fixture = Fixture::new();
        let reply = Reply::Fails(failure, Sent::NotSent);
        fixture.server.set_default(routes::CLIENT_CONFIG, reply);
        let error = fixture.open_error();
        assert_eq!(error.kind(), kind);
        assert_eq!(error.sent(), Sent::NotSent);
        let text = error.to_string();
        assert!(text.contains(ADDRESS), "{text}");
        assert!(text.contains("base_url"), "{text}");
        assert_eq!(fixture.server.requests().len(), 1, "one request");
        assert_eq!(fixture.clock.advance_to_next(), None, "no timer");
    }
}

#[test]
fn rejected_api_key_fails_each_request_of_session_open_without_retry() {
    for (status, kind) in [
        (401, ErrorKind::Authentication),
        (403, ErrorKind::PermissionDenied),
    ] {
        for (sent, route) in OPENING.iter().enumerate() {
            // The document and the configurations are optional, and some servers respond to requests for a missing route with 403.
            let is_optional = *route != routes::CREATE_SESSION && status == 403;
            if *route == ApiDocument::PATH || is_optional {
                continue;
            }
            let fixture = Fixture::new();
            let reply = Reply::Status(status, r#"{"detail": "this key is unknown"}"#);
            fixture.server.set_default(route, reply);
            let error = fixture.open_error();
            assert_eq!(error.kind(), kind, "{route}");
            assert_eq!(error.status(), Some(status), "{route}");
            assert!(!error.is_retryable(), "{route}");
            let text = error.to_string();
            assert!(text.contains("this key is unknown"), "{route}: {text}");
            assert!(text.contains("key"), "{route}: {text}");
            assert!(!format!("{error:?}{text}").contains("tml-secret"));
            // The error of the first request contains the address, since a wrong address is the most frequent mistake.
            assert!(sent > 0 || text.contains(ADDRESS), "{route}: {text}");
            assert_eq!(
                paths(&fixture.server.requests()),
                OPENING[..=sent],
                "one request each"
            );
            fixture.assert_idle();
        }
    }
}

#[test]
fn server_that_requires_token_exchange_is_unsupported() {
    let fixture = Fixture::new();
    let reply = Reply::Status(200, r#"{"pjwt_auth_enabled": true}"#);
    fixture.server.set_default(routes::CLIENT_CONFIG, reply);
    let error = fixture.open_error();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let text = error.to_string();
    assert!(text.contains("pjwt_auth_enabled"), "{text}");
    assert!(text.contains(ADDRESS), "{text}");
    assert!(!error.is_retryable());
    // Only the first request may carry the key.
    assert_eq!(paths(&fixture.server.requests()), OPENING[..1]);
    fixture.assert_idle();
}

#[test]
fn decode_error_of_session_open_names_the_request() {
    for (route, name, body) in [
        (
            routes::CREATE_SESSION,
            "create_session",
            r#"{"id": "session-1"}"#,
        ),
        (routes::CREATE_SESSION, "create_session", r#"["session-1"]"#),
    ] {
        let fixture = Fixture::new();
        fixture.server.set_default(route, Reply::Status(200, body));
        let error = fixture.open_error();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{body}");
        assert!(error.to_string().contains(name), "{error}");
        fixture.assert_idle();
    }
}

#[test]
fn only_the_requests_after_the_first_of_session_open_are_retried() {
    let busy = Reply::Status(503, r#"{"detail": "starting"}"#);
    let fixture = Fixture::new();
    fixture.server.script(routes::CLIENT_CONFIG, [busy]);
    let error = fixture.open_error();
    assert_eq!(error.kind(), ErrorKind::Server);
    assert!(error.to_string().contains(ADDRESS), "{error}");
    assert_eq!(fixture.server.requests().len(), 1);

    for route in [routes::DYNAMIC_CONFIG, routes::CREATE_SESSION] {
        let fixture = Fixture::new();
        let lost = Reply::Fails(TransportErrorKind::Broken, Sent::MaybeSent);
        fixture.server.script(route, [busy, lost]);
        let _session = fixture.open();
        let requests = fixture.server.requests_to(route);
        assert_eq!(requests.len(), 3, "{route}");
        for retry in &requests[1..] {
            assert_eq!(retry.request.body, requests[0].request.body, "{route}");
            let key = "x-idempotency-key";
            assert!(retry.header(key).is_some(), "{route}");
            assert_eq!(retry.header(key), requests[0].header(key), "{route}");
        }
        assert!(requests[0].at < requests[1].at, "{route}: there is a pause");
        assert!(requests[1].at < requests[2].at, "{route}: there is a pause");
    }
}

#[test]
fn session_uses_default_dynamic_config_if_the_server_lacks_the_route() {
    let fixture = Fixture::new();
    let reply = Reply::Status(404, r#"{"detail": "Not Found"}"#);
    fixture.server.set_default(routes::DYNAMIC_CONFIG, reply);
    let session = fixture.open();
    assert_eq!(session.dynamic_config().refresh_interval_sec, 300);
    assert_eq!(fixture.server.requests_to(routes::DYNAMIC_CONFIG).len(), 1);
}

#[test]
fn server_configuration_sets_the_session_config_and_server_profile() {
    let fixture = Fixture::new();
    let reply = Reply::Status(
        200,
        r#"{"fwdbwd_max_chunk_len": 7, "deduplicates_seq_ids": true, "proto_compress_fwdbwd": true,
            "billing_exception_max_pause_duration_sec": 60, "flag_of_tomorrow": [1]}"#,
    );
    fixture.server.set_default(routes::CLIENT_CONFIG, reply);
    let flags = Reply::Status(200, r#"{"sample_cancel_enabled": true}"#);
    fixture.server.set_default(routes::DYNAMIC_CONFIG, flags);
    let session = fixture.open();
    assert_eq!(session.config().fwdbwd_max_chunk_len, 7);
    assert_eq!(session.caller().billing.limit, Duration::from_secs(60));
    assert!(session.dynamic_config().sample_cancel_enabled);
    let profile = session.server_profile();
    assert_eq!(profile.deduplicates, Deduplication::Everything);
    assert!(profile.zstd_bodies);
}

#[test]
fn large_results_wait_for_the_bytes_that_the_server_allows() {
    let fixture = Fixture::new();
    let flags = r#"{"inflight_response_bytes_semaphore_size": 10}"#;
    fixture
        .server
        .set_default(routes::CLIENT_CONFIG, Reply::Status(200, flags));
    let session = fixture.open();
    let first = fixture.drive(session.response_bytes(10));
    let mut second = session.response_bytes(1);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(second.as_mut().poll(&mut cx).is_pending());
    drop(first);
    assert!(second.as_mut().poll(&mut cx).is_ready());
}

#[test]
fn console_url_is_known_only_for_the_hosted_service() {
    let console = "https://tinker.thinkingmachines.ai/sessions/session-1";
    for (address, expected) in [(HOSTED, Some(console)), (ADDRESS, None)] {
        let fixture = Fixture::new();
        let parts = fixture.parts_at(address);
        let session = fixture.drive(Session::open(parts, SessionOptions::default()));
        assert_eq!(session.expect("opens").console_url().as_deref(), expected);
    }
}

#[test]
fn server_profile_assumes_deduplication_only_for_hosted_service() {
    for (address, says, expected) in [
        (HOSTED, "{}", Deduplication::Everything),
        (
            HOSTED,
            r#"{"deduplicates_seq_ids": false}"#,
            Deduplication::Unknown,
        ),
        (ADDRESS, "{}", Deduplication::Unknown),
    ] {
        let fixture = Fixture::new();
        fixture
            .server
            .set_default(routes::CLIENT_CONFIG, Reply::Status(200, says));
        let options = SessionOptions::default();
        let session = fixture
            .drive(Session::open(fixture.parts_at(address), options))
            .expect("opens");
        assert_eq!(
            session.server_profile().deduplicates,
            expected,
            "{address} {says}"
        );
    }
}

#[test]
fn dropped_session_open_future_leaves_no_task_timer_or_endpoint() {
    for hanging in OPENING {
        let fixture = Fixture::new();
        fixture.server.set_default(hanging, Reply::Hangs);
        let mut opening = Box::pin(Session::open(fixture.parts(), SessionOptions::default()));
        let poll = opening
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(poll, Poll::Pending), "{hanging}");
        fixture.run_tasks();
        assert_eq!(fixture.server.requests_to(hanging).len(), 1);
        drop(opening);
        fixture.assert_idle();
        assert!(
            fixture.endpoints.is_empty(),
            "{hanging}: the endpoint is kept"
        );
    }
}

#[test]
fn session_open_future_makes_progress_without_being_polled() {
    let fixture = Fixture::new();
    for path in OPENING {
        let busy = Reply::Status(503, "{}");
        if ![routes::CLIENT_CONFIG, ApiDocument::PATH].contains(&path) {
            fixture.server.script(path, [busy, busy]);
        }
    }
    let mut opening = Box::pin(Session::open(fixture.parts(), SessionOptions::default()));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(opening.as_mut().poll(&mut cx).is_pending());
    // The timers and requests of the opening do not depend on its future being polled.
    fixture.run_until(|server| server.requests_on(Channel::Heartbeat).len() == 3);
    let last = OPENING[OPENING.len() - 1];
    assert_eq!(fixture.server.requests_to(last).len(), 3);
    let Poll::Ready(session) = opening.as_mut().poll(&mut cx) else {
        panic!("the session is open")
    };
    session.expect("open").check_open().expect("open");
}

#[test]
fn query_and_close_futures_make_progress_without_being_polled() {
    let fixture = Fixture::new();
    let session = fixture.open();
    let busy = Reply::Status(503, "{}");
    fixture
        .server
        .script(routes::CAPABILITIES, [busy, busy, busy]);
    let mut query = Box::pin(session.capabilities());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(query.as_mut().poll(&mut cx).is_pending());
    fixture.run_until(|server| server.requests_to(routes::CAPABILITIES).len() == 4);
    let Poll::Ready(outcome) = query.as_mut().poll(&mut cx) else {
        panic!("the query has a response")
    };
    outcome.expect("a response");

    let mut closing = Box::pin(session.close(FinishReason::Success, None));
    let finish = routes::finish_session(session.id());
    fixture.server.script(&finish, [busy]);
    assert!(closing.as_mut().poll(&mut cx).is_pending());
    fixture.run_until(|server| server.requests_to(&finish).len() == 2);
    assert!(matches!(
        closing.as_mut().poll(&mut cx),
        Poll::Ready(Ok(()))
    ));
}

#[test]
fn dropped_capabilities_query_is_cancelled() {
    let fixture = Fixture::new();
    let session = fixture.open();
    fixture
        .server
        .set_default(routes::CAPABILITIES, Reply::Hangs);
    let running = fixture.main.running();
    let mut query = Box::pin(session.capabilities());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(query.as_mut().poll(&mut cx).is_pending());
    assert_eq!(fixture.main.running(), running + 1);
    drop(query);
    assert_eq!(fixture.main.running(), running);
}

#[test]
fn capabilities_query_times_out_at_the_operation_deadline() {
    let fixture = Fixture::new();
    let options = SessionOptions {
        operation_deadline: Some(Duration::from_secs(7)),
        ..SessionOptions::default()
    };
    let session = fixture.try_open(options).expect("opens");
    let start = fixture.clock_seconds();
    fixture
        .server
        .set_default(routes::CAPABILITIES, Reply::Hangs);
    let error = fixture
        .drive(session.capabilities())
        .expect_err("no response");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(error.operation(), Some("ServiceClient.capabilities"));
    assert_eq!(fixture.clock_seconds() - start, 7.0);
}
