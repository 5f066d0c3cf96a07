//! The start of a session: what is asked, in which order, and what comes of answers that no session can start from.

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

use crate::support::{ADDRESS, Asked, Line, Reply, World};

/// The routes of the opening, in their order.
const OPENING: [&str; 4] = [
    routes::CLIENT_CONFIG,
    ApiDocument::PATH,
    routes::DYNAMIC_CONFIG,
    routes::CREATE_SESSION,
];

fn paths(asked: &[Asked]) -> Vec<&str> {
    asked.iter().map(Asked::path).collect()
}

#[test]
fn a_session_opens_by_asking_for_config_and_document_then_flags_then_itself_and_sends_nothing_else()
{
    let world = World::new();
    let session = world.open();
    let asked = world.server.asked();
    assert_eq!(paths(&asked), OPENING);
    // Strict to the byte: whatever the caller did not set is not there.
    let config = json!({"sdk_version": SDK_VERSION});
    assert_eq!(asked[0].body(), config);
    assert_eq!(asked[1].request.body.len(), 0);
    assert_eq!(asked[2].body(), config);
    let bare = json!({"tags": [], "user_metadata": {}, "sdk_version": SDK_VERSION});
    assert_eq!(asked[3].body(), bare);
    let control = RouteClass::Control;
    let expected = [
        (Method::POST, control),
        (Method::GET, control),
        (Method::POST, control),
        (Method::POST, RouteClass::Rest),
    ];
    for (asked, (method, class)) in asked.iter().zip(expected) {
        assert_eq!(asked.request.method, method, "{}", asked.path());
        assert_eq!(asked.request.class, class, "{}", asked.path());
        assert_eq!(asked.line, Line::Main, "{}", asked.path());
        let kind = (method == Method::POST).then_some("application/json");
        assert_eq!(asked.header("content-type"), kind);
        assert_eq!(asked.seconds(), 0.0, "nothing has to be waited for");
        assert_eq!(
            asked.header("x-sdk-method"),
            None,
            "it belongs to no public method"
        );
    }
    assert_eq!(session.id(), "session-1");
    session.check_open().expect("open");
    assert_eq!((world.heart.running(), world.main.running()), (1, 1));
}

#[test]
fn what_the_caller_set_is_sent_as_it_was_set() {
    let world = World::new();
    let options = SessionOptions {
        tags: vec!["b".to_owned(), "a".to_owned()],
        user_metadata: BTreeMap::from([("run".to_owned(), "7".to_owned())]),
        project_id: Some("project-9".to_owned()),
        display_name: Some("Ünïcode \"name\"".to_owned()),
        ..SessionOptions::default()
    };
    let _session = world.try_open(options).expect("opens");
    assert_eq!(
        world.server.on_path(routes::CREATE_SESSION)[0].body(),
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
fn options_that_cannot_work_are_refused_by_name_before_anything_is_sent() {
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
        let world = World::new();
        let error = world.try_open(options).expect_err(field);
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{field}");
        assert_eq!(error.field(), Some(field));
        assert_eq!(error.sent(), Sent::NotSent, "{field}");
        assert!(world.server.asked().is_empty(), "{field}");
        world.assert_at_rest();
    }
}

#[test]
fn what_is_no_tinker_server_is_told_at_once_with_its_address() {
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
        let world = World::new();
        world
            .server
            .usually(routes::CLIENT_CONFIG, Reply::Status(status, body));
        let error = world.open_fails();
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{status} {body}");
        assert!(text.contains("no Tinker server"), "{status} {body}: {text}");
        assert!(text.contains(ADDRESS), "{status} {body}: {text}");
        assert!(text.contains("base_url"), "{status} {body}: {text}");
        assert_eq!(error.status(), Some(status), "{body}");
        assert_eq!(error.body(), body.as_bytes());
        assert_eq!(error.operation(), Some("ServiceClient.connect"));
        assert_eq!(paths(&world.server.asked()), OPENING[..1], "asked once");
        world.assert_at_rest();
    }
}

#[test]
fn a_server_that_is_not_there_is_told_at_once_with_its_address() {
    for (failure, kind) in [
        (TransportErrorKind::Connect, ErrorKind::Connection),
        (TransportErrorKind::Timeout, ErrorKind::Timeout),
    ] {
        let world = World::new();
        let reply = Reply::Fails(failure, Sent::NotSent);
        world.server.usually(routes::CLIENT_CONFIG, reply);
        let error = world.open_fails();
        assert_eq!(error.kind(), kind);
        assert_eq!(error.sent(), Sent::NotSent);
        let text = error.to_string();
        assert!(text.contains(ADDRESS), "{text}");
        assert!(text.contains("base_url"), "{text}");
        assert_eq!(world.server.asked().len(), 1, "asked once");
        assert_eq!(
            world.clock.advance_to_next(),
            None,
            "nothing was waited for"
        );
    }
}

#[test]
fn a_key_that_is_not_taken_is_told_at_once_whichever_request_it_fails() {
    for (status, kind) in [
        (401, ErrorKind::Authentication),
        (403, ErrorKind::PermissionDenied),
    ] {
        for (sent, route) in OPENING.iter().enumerate() {
            // A document that is not shown keeps nobody out.
            if *route == ApiDocument::PATH {
                continue;
            }
            let world = World::new();
            let reply = Reply::Status(status, r#"{"detail": "this key is unknown"}"#);
            world.server.usually(route, reply);
            let error = world.open_fails();
            assert_eq!(error.kind(), kind, "{route}");
            assert_eq!(error.status(), Some(status), "{route}");
            assert!(!error.is_retryable(), "{route}");
            let text = error.to_string();
            assert!(text.contains("this key is unknown"), "{route}: {text}");
            assert!(text.contains("key"), "{route}: {text}");
            assert!(!format!("{error:?}{text}").contains("tml-secret"));
            // The first contact says where, too: the address is what is most often wrong then.
            assert!(sent > 0 || text.contains(ADDRESS), "{route}: {text}");
            assert_eq!(paths(&world.server.asked()), OPENING[..=sent], "once each");
            world.assert_at_rest();
        }
    }
}

#[test]
fn a_server_that_wants_keys_exchanged_for_tokens_is_unsupported_and_says_so() {
    let world = World::new();
    let reply = Reply::Status(200, r#"{"pjwt_auth_enabled": true}"#);
    world.server.usually(routes::CLIENT_CONFIG, reply);
    let error = world.open_fails();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let text = error.to_string();
    assert!(text.contains("pjwt_auth_enabled"), "{text}");
    assert!(text.contains(ADDRESS), "{text}");
    assert!(!error.is_retryable());
    // The raw key went out once, with the request that asks; nothing else may carry it.
    assert_eq!(paths(&world.server.asked()), OPENING[..1]);
    world.assert_at_rest();
}

#[test]
fn answers_that_cannot_be_read_name_the_request_they_came_for() {
    for (route, name, body) in [
        (
            routes::CLIENT_CONFIG,
            "client/config",
            r#"{"fwdbwd_max_chunk_len": "many"}"#,
        ),
        (
            routes::DYNAMIC_CONFIG,
            "client/dynamic_config",
            "<p>busy</p>",
        ),
        (
            routes::CREATE_SESSION,
            "create_session",
            r#"{"id": "session-1"}"#,
        ),
        (routes::CREATE_SESSION, "create_session", r#"["session-1"]"#),
    ] {
        let world = World::new();
        world.server.usually(route, Reply::Status(200, body));
        let error = world.open_fails();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{body}");
        assert!(error.to_string().contains(name), "{error}");
        world.assert_at_rest();
    }
}

#[test]
fn the_first_contact_is_made_once_and_what_follows_is_repeated_unchanged() {
    let busy = Reply::Status(503, r#"{"detail": "starting"}"#);
    let world = World::new();
    world.server.next(routes::CLIENT_CONFIG, [busy]);
    let error = world.open_fails();
    assert_eq!(error.kind(), ErrorKind::Server);
    assert!(error.to_string().contains(ADDRESS), "{error}");
    assert_eq!(world.server.asked().len(), 1);

    for route in [routes::DYNAMIC_CONFIG, routes::CREATE_SESSION] {
        let world = World::new();
        let lost = Reply::Fails(TransportErrorKind::Broken, Sent::MaybeSent);
        world.server.next(route, [busy, lost]);
        let _session = world.open();
        let asked = world.server.on_path(route);
        assert_eq!(asked.len(), 3, "{route}");
        for again in &asked[1..] {
            assert_eq!(again.request.body, asked[0].request.body, "{route}");
            let key = "x-idempotency-key";
            assert!(again.header(key).is_some(), "{route}");
            assert_eq!(again.header(key), asked[0].header(key), "{route}");
        }
        assert!(asked[0].at < asked[1].at, "{route}: there is a pause");
        assert!(asked[1].at < asked[2].at, "{route}: there is a pause");
    }
}

#[test]
fn a_server_without_flags_has_the_usual_ones() {
    let world = World::new();
    let reply = Reply::Status(404, r#"{"detail": "Not Found"}"#);
    world.server.usually(routes::DYNAMIC_CONFIG, reply);
    let session = world.open();
    assert_eq!(session.dynamic_config().refresh_interval_sec, 300);
    assert_eq!(world.server.on_path(routes::DYNAMIC_CONFIG).len(), 1);
}

#[test]
fn what_the_server_says_of_itself_reaches_the_session_and_its_endpoint() {
    let world = World::new();
    let reply = Reply::Status(
        200,
        r#"{"fwdbwd_max_chunk_len": 7, "deduplicates_seq_ids": true, "proto_compress_fwdbwd": true,
            "billing_exception_max_pause_duration_sec": 60, "flag_of_tomorrow": [1]}"#,
    );
    world.server.usually(routes::CLIENT_CONFIG, reply);
    let flags = Reply::Status(200, r#"{"sample_cancel_enabled": true}"#);
    world.server.usually(routes::DYNAMIC_CONFIG, flags);
    let session = world.open();
    assert_eq!(session.config().fwdbwd_max_chunk_len, 7);
    assert_eq!(session.caller().billing_limit, Duration::from_secs(60));
    assert!(session.dynamic_config().sample_cancel_enabled);
    let profile = session.server_profile();
    assert_eq!(profile.deduplicates, Deduplication::Everything);
    assert!(profile.zstd_bodies);
}

#[test]
fn only_the_hosted_service_is_taken_to_deduplicate_without_saying_so() {
    let hosted = "https://tinker.thinkingmachines.dev/services/tinker-prod";
    for (address, says, expected) in [
        (hosted, "{}", Deduplication::Everything),
        (
            hosted,
            r#"{"deduplicates_seq_ids": false}"#,
            Deduplication::Unknown,
        ),
        (ADDRESS, "{}", Deduplication::Unknown),
    ] {
        let world = World::new();
        world
            .server
            .usually(routes::CLIENT_CONFIG, Reply::Status(200, says));
        let options = SessionOptions::default();
        let session = world
            .drive(Session::open(world.parts_at(address), options))
            .expect("opens");
        assert_eq!(
            session.server_profile().deduplicates,
            expected,
            "{address} {says}"
        );
    }
}

#[test]
fn a_start_that_is_dropped_leaves_nothing_behind() {
    for hanging in OPENING {
        let world = World::new();
        world.server.usually(hanging, Reply::Hangs);
        let mut start = Box::pin(Session::open(world.parts(), SessionOptions::default()));
        let poll = start.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(poll, Poll::Pending), "{hanging}");
        world.settle();
        assert_eq!(world.server.on_path(hanging).len(), 1);
        drop(start);
        world.assert_at_rest();
        assert!(
            world.endpoints.is_empty(),
            "{hanging}: the endpoint is kept"
        );
    }
}

#[test]
fn a_start_goes_on_while_its_caller_does_nothing() {
    let world = World::new();
    for path in OPENING {
        let busy = Reply::Status(503, "{}");
        if ![routes::CLIENT_CONFIG, ApiDocument::PATH].contains(&path) {
            world.server.next(path, [busy, busy]);
        }
    }
    let mut start = Box::pin(Session::open(world.parts(), SessionOptions::default()));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(start.as_mut().poll(&mut cx).is_pending());
    // Nobody polls it; its pauses end and its requests are made all the same, and the session lives on.
    world.until(|server| server.on_line(Line::Heart).len() == 3);
    let last = OPENING[OPENING.len() - 1];
    assert_eq!(world.server.on_path(last).len(), 3);
    let Poll::Ready(session) = start.as_mut().poll(&mut cx) else {
        panic!("it is open")
    };
    session.expect("open").check_open().expect("open");
}

#[test]
fn what_a_session_is_asked_for_is_fetched_while_its_caller_does_nothing() {
    let world = World::new();
    let session = world.open();
    let busy = Reply::Status(503, "{}");
    world.server.next(routes::CAPABILITIES, [busy, busy, busy]);
    let mut asking = Box::pin(session.capabilities());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(asking.as_mut().poll(&mut cx).is_pending());
    world.until(|server| server.on_path(routes::CAPABILITIES).len() == 4);
    let Poll::Ready(found) = asking.as_mut().poll(&mut cx) else {
        panic!("it was answered")
    };
    found.expect("answered");

    let mut closing = Box::pin(session.close(FinishReason::Success, None));
    let finish = routes::finish_session(session.id());
    world.server.next(&finish, [busy]);
    assert!(closing.as_mut().poll(&mut cx).is_pending());
    world.until(|server| server.on_path(&finish).len() == 2);
    assert!(matches!(
        closing.as_mut().poll(&mut cx),
        Poll::Ready(Ok(()))
    ));
}

#[test]
fn a_question_that_is_dropped_is_given_up() {
    let world = World::new();
    let session = world.open();
    world.server.usually(routes::CAPABILITIES, Reply::Hangs);
    let running = world.main.running();
    let mut asking = Box::pin(session.capabilities());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(asking.as_mut().poll(&mut cx).is_pending());
    assert_eq!(world.main.running(), running + 1);
    drop(asking);
    assert_eq!(world.main.running(), running);
}

#[test]
fn a_question_takes_no_longer_than_any_operation() {
    let world = World::new();
    let options = SessionOptions {
        operation_deadline: Some(Duration::from_secs(7)),
        ..SessionOptions::default()
    };
    let session = world.try_open(options).expect("it opens");
    let asked_at = world.clock_seconds();
    world.server.usually(routes::CAPABILITIES, Reply::Hangs);
    let error = world.drive(session.capabilities()).expect_err("no answer");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(error.operation(), Some("ServiceClient.capabilities"));
    assert_eq!(world.clock_seconds() - asked_at, 7.0);
}
