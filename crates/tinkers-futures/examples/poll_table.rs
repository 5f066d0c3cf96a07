//! Prints the action for each kind of response to a poll.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tinkers_core::HttpResponse;
use tinkers_core::retry::{ExchangeKind, StatusAction};

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() {
    let rows = [
        (200, r#"{"type": "try_again", "queue_state": "active"}"#),
        (408, "{}"),
        (404, "<html>default backend</html>"),
        (410, r#"{"detail": "the result is gone"}"#),
        (429, "{}"),
        (502, ""),
    ];
    for (status, body) in rows {
        let status = StatusCode::from_u16(status).expect("a status");
        let response = HttpResponse {
            status,
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
        };
        println!(
            "{status}: {:?}",
            StatusAction::of(ExchangeKind::Poll, &response)
        );
    }
}
