//! The opening of a session on a server without optional routes, and the limit on repeated creations.

use tinkers_core::{ErrorKind, RecoveredError, Sent, SessionContext, TransportErrorKind};
use tinkers_wire::{ApiDocument, ClientConfig, routes};

use crate::support::{Fixture, Reply};

#[test]
fn session_opens_on_a_server_without_configuration() {
    for reply in [
        Reply::Status(400, r#"{"error": "unknown endpoint"}"#),
        Reply::Status(403, r#"{"detail": "Forbidden"}"#),
        Reply::Status(404, r#"{"detail": "Not Found"}"#),
        Reply::Status(405, "method not allowed"),
        Reply::Status(500, "Internal Server Error"),
        Reply::Status(501, r#"{"error": "not implemented"}"#),
        Reply::Status(200, "<!doctype html><p>Welcome</p>"),
        Reply::Status(200, "[]"),
        Reply::Fails(TransportErrorKind::Timeout, Sent::MaybeSent),
    ] {
        let fixture = Fixture::new();
        fixture.server.set_default(routes::CLIENT_CONFIG, reply);
        let session = fixture.open();
        assert_eq!(session.config(), &ClientConfig::default(), "{reply:?}");
        let recovered = session.recovered_errors();
        assert_eq!(recovered.of(RecoveredError::MissingRoute), 1, "{reply:?}");
        assert_eq!(fixture.server.requests_to(routes::CLIENT_CONFIG).len(), 1);
    }
}

#[test]
fn optional_requests_of_session_open_take_ten_seconds_at_most() {
    let fixture = Fixture::new();
    for route in [ApiDocument::PATH, routes::DYNAMIC_CONFIG] {
        fixture.server.set_default(route, Reply::Hangs);
    }
    let session = fixture.open();
    assert_eq!(fixture.clock_seconds(), 10.0);
    assert_eq!(session.dynamic_config().refresh_interval_sec, 300);

    let fixture = Fixture::new();
    let reply = Reply::Status(500, r#"{"detail": "Internal Server Error"}"#);
    fixture.server.set_default(routes::DYNAMIC_CONFIG, reply);
    let _session = fixture.open();
    assert_eq!(fixture.server.requests_to(routes::DYNAMIC_CONFIG).len(), 3);
    assert!(fixture.clock_seconds() < 10.0);
}

#[test]
fn session_creation_with_a_repeated_500_is_attempted_three_times() {
    let fixture = Fixture::new();
    let reply = Reply::Status(500, r#"{"detail": "no database"}"#);
    fixture.server.set_default(routes::CREATE_SESSION, reply);
    let error = fixture.open_error();
    assert_eq!(error.kind(), ErrorKind::Server);
    assert!(error.to_string().contains("no database"), "{error}");
    assert_eq!(fixture.server.requests_to(routes::CREATE_SESSION).len(), 3);
}
