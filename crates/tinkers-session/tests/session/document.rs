//! The request for the OpenAPI document of an unknown server.

use tinkers_core::{BodyFormat, Deduplication, Document, Sent, TransportErrorKind};
use tinkers_session::{Session, SessionOptions};
use tinkers_wire::{ApiDocument, routes};

use crate::support::{Fixture, Reply};

/// The OpenAPI document of a server that accepts forward and forward-backward passes in JSON only.
const JSON_ONLY: &str = r#"{"info": {"title": "Another server", "version": "7"}, "paths": {
    "/api/v1/forward_backward": {"post": {"requestBody": {"content": {"application/json": {}}}}}}}"#;

/// The relevant part of SkyRL's OpenAPI document. The document does not describe the body of `forward_backward`, and the body of
/// `optim_step` contains a `seq_id`.
const SKYRL: &str = r#"{"info": {"title": "Tinker API Mock", "version": "0.0.1"}, "paths": {
    "/api/v1/forward_backward": {"post": {}},
    "/api/v1/optim_step": {"post": {"requestBody": {"content": {"application/json":
        {"schema": {"properties": {"seq_id": {}}}}}}}}}}"#;

fn with_document(document: &'static str) -> Fixture {
    let fixture = Fixture::new();
    fixture
        .server
        .set_default(ApiDocument::PATH, Reply::Status(200, document));
    fixture
}

#[test]
fn openapi_document_sets_the_initial_server_profile() {
    let json = with_document(JSON_ONLY).open().server_profile();
    assert_eq!(json.software.as_deref(), Some("Another server/7"));
    assert_eq!(
        (json.body_format, json.body_format_confirmed),
        (BodyFormat::Json, false)
    );
    assert_eq!(json.deduplicates, Deduplication::Unknown);
    let skyrl = with_document(SKYRL).open().server_profile();
    assert_eq!(skyrl.body_format, BodyFormat::Protobuf);
    assert_eq!(skyrl.deduplicates, Deduplication::PassesAndSteps);
    assert!(skyrl.unlisted_routes().contains(&routes::RETRIEVE_FUTURES));
}

#[test]
fn session_opens_without_an_openapi_document() {
    for reply in [
        Reply::Status(404, r#"{"detail": "Not Found"}"#),
        Reply::Status(401, "{}"),
        // Neither an unpaid bill nor a `retry-after` hint delays the opening.
        Reply::Status(402, r#"{"detail": "unpaid"}"#),
        Reply::Status(429, r#"{"retry_after_ms": 60000}"#),
        Reply::Status(500, "Internal Server Error"),
        Reply::Status(200, "<html>a page</html>"),
        Reply::Fails(TransportErrorKind::Broken, Sent::MaybeSent),
    ] {
        let fixture = Fixture::new();
        fixture.server.set_default(ApiDocument::PATH, reply);
        let profile = fixture.open().server_profile();
        assert_eq!(profile.document, Document::Absent, "{reply:?}");
        assert_eq!(profile.body_format, BodyFormat::Protobuf);
        assert_eq!(
            fixture.server.requests_to(ApiDocument::PATH).len(),
            1,
            "one request"
        );
    }
}

#[test]
fn openapi_document_is_looked_for_below_the_api_prefix_too() {
    let fixture = with_document("<html>a page</html>");
    fixture
        .server
        .set_default(ApiDocument::API_PATH, Reply::Status(200, JSON_ONLY));
    let profile = fixture.open().server_profile();
    assert_eq!(profile.document, Document::Read);
    assert_eq!(profile.body_format, BodyFormat::Json);
}

#[test]
fn openapi_document_request_times_out_after_five_seconds() {
    let fixture = Fixture::new();
    fixture.server.set_default(ApiDocument::PATH, Reply::Hangs);
    let profile = fixture.open().server_profile();
    assert_eq!(profile.document, Document::Absent);
    assert_eq!(fixture.clock_seconds(), 5.0);
}

#[test]
fn sessions_of_an_endpoint_fetch_the_openapi_document_once() {
    let fixture = with_document(JSON_ONLY);
    let first = fixture.open();
    let second = fixture
        .drive(Session::open(fixture.parts(), SessionOptions::default()))
        .expect("opens");
    assert_eq!(fixture.server.requests_to(ApiDocument::PATH).len(), 1);
    assert_eq!(second.server_profile(), first.server_profile());
}

#[test]
fn openapi_document_is_not_fetched_if_the_server_is_known() {
    let fixture = with_document(JSON_ONLY);
    let named = Reply::Status(200, r#"{"server": "tinkers-local/1"}"#);
    fixture.server.set_default(routes::CLIENT_CONFIG, named);
    let profile = fixture.open().server_profile();
    assert_eq!(fixture.server.requests_to(ApiDocument::PATH).len(), 0);
    assert_eq!(profile.software.as_deref(), Some("tinkers-local/1"));
    assert_eq!(profile.document, Document::NotAsked);
}
