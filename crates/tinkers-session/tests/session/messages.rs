//! Messages of the server for the user of a session.

use tinkers_session::{MessageLevel, SessionEvent};
use tinkers_wire::routes;

use crate::support::{Fixture, Reply};

#[test]
fn messages_of_the_server_become_session_events() {
    let fixture = Fixture::new();
    let created = r#"{"session_id": "session-7", "info_message": "new models", "warning_message": "maintenance at noon",
        "error_message": "over quota"}"#;
    fixture
        .server
        .script(routes::CREATE_SESSION, [Reply::Status(200, created)]);
    let session = fixture.open();
    let mut events = session.events();
    for (level, text) in [
        (MessageLevel::Info, "new models"),
        (MessageLevel::Warning, "maintenance at noon"),
        (MessageLevel::Error, "over quota"),
    ] {
        let text = text.to_owned();
        let message = SessionEvent::ServerMessage { level, text };
        assert_eq!(fixture.drive(events.next()), Some(message));
    }
}
