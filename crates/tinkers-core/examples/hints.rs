//! Prints the action of the client for some responses.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use std::time::SystemTime;
use tinkers_core::{HttpResponse, retry};

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() {
    let mut headers = HeaderMap::new();
    headers.insert("retry-after", HeaderValue::from_static("3"));
    for status in [200, 402, 404, 429, 503] {
        let status = StatusCode::from_u16(status).expect("a status");
        let answer = HttpResponse {
            status,
            headers: headers.clone(),
            body: Bytes::from_static(b"{}"),
        };
        println!(
            "{status}: {:?}",
            retry::classify(&answer, SystemTime::UNIX_EPOCH)
        );
    }
}
