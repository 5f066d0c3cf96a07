//! Generates whole requests at random, with valid and invalid paths, methods, headers and bodies.

use std::sync::LazyLock;

use bytes::Bytes;
use tinkers_local::Route;

use crate::fixtures::{FUTURE, fixture_id, valid_body};
use crate::mutate::Mutator;
use crate::request_parts::{HEADERS, IDS, METHODS, OTHER_PATHS, QUERIES, VALUES};
use crate::seeds;
use crate::server::HOSTS;

/// Returns an input for the server: either one to three generated HTTP requests, or a mutation of
/// one of `seeds`.
pub fn requests(mutator: &Mutator, seeds: &[Vec<u8>]) -> Vec<u8> {
    if mutator.below(3) == 0 {
        return mutator.next(seeds);
    }
    let mut all = Vec::new();
    let host = *mutator.pick(&HOSTS);
    for _ in 0..=mutator.below(3) {
        all.extend(request(mutator, host));
    }
    if mutator.below(8) == 0 {
        mutator.change(&mut all, seeds);
    }
    all
}

fn request(mutator: &Mutator, host: &str) -> Vec<u8> {
    let route = *mutator.pick(Route::ALL);
    let method = match mutator.below(6) {
        0 => mutator.pick(&METHODS),
        _ => route.method(),
    };
    let mut headers = format!("host: {host}\r\n").into_bytes();
    if mutator.below(2) == 0 {
        headers.extend_from_slice(b"x-api-key: tml-fuzz\r\n");
    }
    let mut body = body(mutator, route);
    if mutator.below(6) == 0 {
        let packed = zstd::encode_all(&body[..], 1).unwrap_or_default();
        body = packed;
        headers.extend_from_slice(b"content-encoding: zstd\r\n");
    }
    for _ in 0..mutator.below(4) {
        header(mutator, &mut headers);
    }
    add_content_length(mutator, body.len(), &mut headers);
    let path = path(mutator, route);
    let first = [method.as_bytes(), b" ", path.as_bytes(), b" HTTP/1.1\r\n"].concat();
    [&first[..], &headers, b"\r\n", &body].concat()
}

fn path(mutator: &Mutator, route: Route) -> String {
    let mut path = match mutator.below(10) {
        0 => (*mutator.pick(&OTHER_PATHS)).to_owned(),
        1 => long_path(mutator),
        _ => {
            let parts = route.path().split('/').map(|part| match fixture_id(part) {
                Some(_) if mutator.below(4) == 0 => mutator.pick(&IDS),
                Some(id) => id,
                None => part,
            });
            parts.collect::<Vec<_>>().join("/")
        }
    };
    match mutator.below(12) {
        0 => path = path.replace('/', "//"),
        1 => path.push('/'),
        2 => path = path.replace('s', "%73"),
        _ => {}
    }
    if mutator.below(4) == 0 {
        path = format!("{path}?{}", mutator.pick(&QUERIES));
    }
    path
}

/// Returns a request path that is longer than the HTTP library (hyper) allows.
fn long_path(mutator: &Mutator) -> String {
    let id = mutator.pick(&IDS);
    format!("/api/v1/{}", id.repeat(70_000 / id.len().max(1)))
}

fn header(mutator: &Mutator, headers: &mut Vec<u8>) {
    let (name, values) = mutator.pick(&HEADERS);
    headers.extend_from_slice(name.as_bytes());
    headers.extend_from_slice(b": ");
    headers.extend_from_slice(mutator.pick(values).as_bytes());
    match mutator.below(12) {
        0 => headers.extend_from_slice(b"\xff\x80"),
        1 => headers.extend_from_slice("\u{e9}".as_bytes()),
        2 => headers.extend_from_slice(b"\t\"\\"),
        3 => headers.extend(b"a".repeat(9000)),
        _ => {}
    }
    headers.extend_from_slice(b"\r\n");
}

/// Adds a `content-length` header to `headers`. In most cases it declares the correct length,
/// `length`.
fn add_content_length(mutator: &Mutator, length: usize, headers: &mut Vec<u8>) {
    let value = match mutator.below(16) {
        0 => "0".to_owned(),
        1 => length.saturating_sub(1).to_string(),
        2 => (length + 1000).to_string(),
        3 => "18446744073709551615".to_owned(),
        4 => "-1".to_owned(),
        5 => format!("{length}, {length}"),
        6 => return,
        _ => length.to_string(),
    };
    headers.extend(format!("content-length: {value}\r\n").into_bytes());
}

/// Bodies of poll responses. The generator uses them as request bodies, which no route expects.
/// They are created only once, because they are large.
static OTHER_BODIES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(seeds::polls);

fn body(mutator: &Mutator, route: Route) -> Vec<u8> {
    let mut body = match (mutator.below(8), valid_body(route)) {
        (0, _) | (1..6, None) => return Vec::new(),
        (1..6, Some(body)) => {
            let number = |name: &str| format!("{name}{}", 1 + mutator.below(7));
            let body = body.replace("\"seq_id\":2", &number("\"seq_id\":"));
            let body = body.replace(FUTURE, &number("req-00000000-"));
            body.into_bytes()
        }
        _ => mutator.pick(&OTHER_BODIES).clone(),
    };
    for _ in 0..mutator.below(5).saturating_sub(2) {
        match mutator.below(2) {
            0 => replace_json_value(mutator, &mut body),
            _ => mutator.change(&mut body, &[Bytes::from_static(b"{}").to_vec()]),
        }
    }
    body
}

/// Replaces the value after a random colon in a JSON body, such as a field value, by a random value
/// from [`VALUES`].
fn replace_json_value(mutator: &Mutator, body: &mut Vec<u8>) {
    let colons = body.iter().enumerate().filter(|(_, byte)| **byte == b':');
    let colons: Vec<usize> = colons.map(|(at, _)| at + 1).collect();
    if colons.is_empty() {
        return;
    }
    let from = *mutator.pick(&colons);
    let is_end = |byte: &u8| matches!(byte, b',' | b'}' | b']');
    let end = body[from..].iter().position(is_end);
    let end = end.map_or(body.len(), |at| from + at);
    body.splice(from..end, mutator.pick(&VALUES).bytes());
}
