//! Sends single requests to a server, without a client.
#![cfg(unix)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// Sends a request. Returns `None` if the connection ended before the response was complete.
pub(crate) fn request(
    address: &str,
    method: &str,
    path: &str,
    body: &Value,
) -> Option<(u16, Value)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .ok()?;
    let body = body.to_string();
    let head = format!(
        "{method} /api/v1/{path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).ok()?;
    let (head, body) = response.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = head
        .to_ascii_lowercase()
        .split_once("content-length: ")
        .map_or(0, |(_, rest)| {
            rest.split("\r\n").next().unwrap().parse().unwrap()
        });
    (body.len() == length).then(|| (status, serde_json::from_str(body).unwrap_or_default()))
}
