//! What a session goes on from is on a counter of its own.

use tinkers_core::{RecoveredError, Sent, TransportErrorKind};
use tinkers_session::SessionOptions;
use tinkers_wire::{FinishReason, routes};

use crate::support::{Line, Reply, World};

const LOST: Reply = Reply::Fails(TransportErrorKind::Connect, Sent::NotSent);

#[test]
fn each_error_that_a_session_goes_on_from_is_counted_once_and_for_it_alone() {
    let world = World::new();
    let quiet = world.open();
    // The repeat of a creation belongs to the session that comes of it.
    world.server.next(routes::CREATE_SESSION, [LOST]);
    let session = world.open();
    assert_eq!(session.recovered_errors().of(RecoveredError::Repeat), 1);
    drop(quiet);

    let beats = world.server.on_line(Line::Heart).len();
    let refreshes = world.server.on_path(routes::DYNAMIC_CONFIG).len();
    world.server.next(
        routes::SESSION_HEARTBEAT,
        [
            LOST,
            Reply::Status(500, "broken"),
            Reply::Panics,
            Reply::Status(200, "{}"),
        ],
    );
    world.server.next(routes::DYNAMIC_CONFIG, [LOST]);
    world.until(|server| {
        server.on_line(Line::Heart).len() > beats + 4
            && server.on_path(routes::DYNAMIC_CONFIG).len() > refreshes
    });
    world.settle();
    let counts = session.recovered_errors();
    assert_eq!(counts.of(RecoveredError::Heartbeat), 3, "{counts:?}");
    assert_eq!(counts.of(RecoveredError::Refresh), 1, "{counts:?}");

    let finish = routes::finish_session(session.id());
    let gone = Reply::Status(410, r#"{"detail": "the session has ended"}"#);
    world.server.next(&finish, [gone]);
    world
        .drive(session.close(FinishReason::Success, None))
        .expect("there is nothing to finish");
    assert_eq!(session.recovered_errors().of(RecoveredError::Close), 1);

    let other = world.try_open(SessionOptions::default()).expect("opens");
    assert_eq!(other.recovered_errors().total(), 0);
}
