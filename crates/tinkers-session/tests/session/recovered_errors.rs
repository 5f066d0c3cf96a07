//! The counters of the errors from which a session recovers.

use tinkers_core::{RecoveredError, Sent, TransportErrorKind};
use tinkers_session::SessionOptions;
use tinkers_wire::{FinishReason, routes};

use crate::support::{Channel, Fixture, Reply};

const LOST: Reply = Reply::Fails(TransportErrorKind::Connect, Sent::NotSent);

#[test]
fn recovered_error_is_counted_once_in_its_session() {
    let fixture = Fixture::new();
    let unaffected = fixture.open();
    // A retry of a creation is counted for the session that is created.
    fixture.server.script(routes::CREATE_SESSION, [LOST]);
    let session = fixture.open();
    assert_eq!(session.recovered_errors().of(RecoveredError::Repeat), 1);
    drop(unaffected);

    let heartbeats = fixture.server.requests_on(Channel::Heartbeat).len();
    let refreshes = fixture.server.requests_to(routes::DYNAMIC_CONFIG).len();
    fixture.server.script(
        routes::SESSION_HEARTBEAT,
        [
            LOST,
            Reply::Status(500, "broken"),
            Reply::Panics,
            Reply::Status(200, "{}"),
        ],
    );
    fixture.server.script(routes::DYNAMIC_CONFIG, [LOST]);
    fixture.run_until(|server| {
        server.requests_on(Channel::Heartbeat).len() > heartbeats + 4
            && server.requests_to(routes::DYNAMIC_CONFIG).len() > refreshes
    });
    fixture.run_tasks();
    let counts = session.recovered_errors();
    assert_eq!(counts.of(RecoveredError::Heartbeat), 3, "{counts:?}");
    assert_eq!(counts.of(RecoveredError::Refresh), 1, "{counts:?}");

    let finish = routes::finish_session(session.id());
    let gone = Reply::Status(410, r#"{"detail": "the session has ended"}"#);
    fixture.server.script(&finish, [gone]);
    fixture
        .drive(session.close(FinishReason::Success, None))
        .expect("an ended session needs no finish");
    assert_eq!(session.recovered_errors().of(RecoveredError::Close), 1);

    let other = fixture.try_open(SessionOptions::default()).expect("opens");
    assert_eq!(other.recovered_errors().total(), 0);
}
