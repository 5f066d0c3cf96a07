//! Prints what is done about each kind of answer to a poll.

use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tinkers_core::HttpResponse;
use tinkers_futures::classify_poll;

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() {
    let rows = [
        (200, r#"{"type": "try_again", "queue_state": "active"}"#),
        (408, "{}"),
        (410, "{}"),
        (429, "{}"),
        (502, ""),
    ];
    for (status, body) in rows {
        let status = StatusCode::from_u16(status).expect("a status");
        let answer = HttpResponse {
            status,
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
        };
        println!(
            "{status}: {:?}",
            classify_poll(&answer, SystemTime::UNIX_EPOCH)
        );
    }
}
