//! What an unknown server's OpenAPI document is asked for, and what is made of it.

use tinkers_core::{BodyFormat, Deduplication, Document, Sent, TransportErrorKind};
use tinkers_session::{Session, SessionOptions};
use tinkers_wire::{ApiDocument, routes};

use crate::support::{Reply, World};

/// The document of a server that takes passes in JSON alone.
const JSON_ALONE: &str = r#"{"info": {"title": "Another server", "version": "7"}, "paths": {
    "/api/v1/forward_backward": {"post": {"requestBody": {"content": {"application/json": {}}}}}}}"#;

/// The document of SkyRL's main branch, as far as it matters: no body of a pass in it, and a number in the step.
const SKYRL: &str = r#"{"info": {"title": "Tinker API Mock", "version": "0.0.1"}, "paths": {
    "/api/v1/forward_backward": {"post": {}},
    "/api/v1/optim_step": {"post": {"requestBody": {"content": {"application/json":
        {"schema": {"properties": {"seq_id": {}}}}}}}}}}"#;

fn with_document(document: &'static str) -> World {
    let world = World::new();
    world
        .server
        .usually(ApiDocument::PATH, Reply::Status(200, document));
    world
}

#[test]
fn a_document_says_what_to_begin_with() {
    let json = with_document(JSON_ALONE).open().server_profile();
    assert_eq!(json.software.as_deref(), Some("Another server/7"));
    assert_eq!(
        (json.bodies, json.bodies_confirmed),
        (BodyFormat::Json, false)
    );
    assert_eq!(json.deduplicates, Deduplication::Unknown);
    let skyrl = with_document(SKYRL).open().server_profile();
    assert_eq!(skyrl.bodies, BodyFormat::Protobuf);
    assert_eq!(skyrl.deduplicates, Deduplication::PassesAndSteps);
    assert!(skyrl.unlisted_routes().contains(&routes::RETRIEVE_FUTURES));
}

#[test]
fn without_a_document_a_session_opens_all_the_same() {
    for reply in [
        Reply::Status(404, r#"{"detail": "Not Found"}"#),
        Reply::Status(401, "{}"),
        // Neither a bill nor a hint of another server's keeps the session waiting.
        Reply::Status(402, r#"{"detail": "unpaid"}"#),
        Reply::Status(429, r#"{"retry_after_ms": 60000}"#),
        Reply::Status(500, "Internal Server Error"),
        Reply::Status(200, "<html>a page</html>"),
        Reply::Fails(TransportErrorKind::Broken, Sent::MaybeSent),
    ] {
        let world = World::new();
        world.server.usually(ApiDocument::PATH, reply);
        let profile = world.open().server_profile();
        assert_eq!(profile.document, Document::Absent, "{reply:?}");
        assert_eq!(profile.bodies, BodyFormat::Protobuf);
        assert_eq!(
            world.server.on_path(ApiDocument::PATH).len(),
            1,
            "asked once"
        );
    }
}

#[test]
fn a_document_that_does_not_come_is_waited_for_five_seconds() {
    let world = World::new();
    world.server.usually(ApiDocument::PATH, Reply::Hangs);
    let profile = world.open().server_profile();
    assert_eq!(profile.document, Document::Absent);
    assert_eq!(world.clock_seconds(), 5.0);
}

#[test]
fn all_sessions_of_an_endpoint_ask_once_together() {
    let world = with_document(JSON_ALONE);
    let first = world.open();
    let second = world
        .drive(Session::open(world.parts(), SessionOptions::default()))
        .expect("opens");
    assert_eq!(world.server.on_path(ApiDocument::PATH).len(), 1);
    assert_eq!(second.server_profile(), first.server_profile());
}

#[test]
fn a_server_that_says_who_it_is_is_not_asked() {
    let world = with_document(JSON_ALONE);
    let named = Reply::Status(200, r#"{"server": "tinkers-local/1"}"#);
    world.server.usually(routes::CLIENT_CONFIG, named);
    let profile = world.open().server_profile();
    assert_eq!(world.server.on_path(ApiDocument::PATH).len(), 0);
    assert_eq!(profile.software.as_deref(), Some("tinkers-local/1"));
    assert_eq!(profile.document, Document::NotAsked);
}
