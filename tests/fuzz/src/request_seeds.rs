//! Seeds of the targets `server` and `server-connection`: whole requests and connections.

use tinkers_local::Route;

use crate::bombs::BOMBS;
use crate::fixtures::client_request;
use crate::seeds::polls;
use crate::server::HOSTS;

/// Returns seed inputs for the server: for each route a request as the client sends it, requests
/// with unexpected bodies, and requests with decompression bombs.
pub(crate) fn requests() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (i, route) in Route::ALL.iter().enumerate() {
        all.push(client_request(*route, HOSTS[i % HOSTS.len()]));
        all.push(client_request(*route, HOSTS[0]));
    }
    // Only the servers with these configurations have these routes.
    all.push(client_request(Route::AuthToken, "exchange"));
    all.push(client_request(Route::ApiKey, "keyed"));
    let routes = [Route::Sample, Route::ForwardBackward, Route::CreateModel];
    for (i, body) in polls().iter().enumerate() {
        let path = routes[i % routes.len()].path();
        let head = format!("POST {path} HTTP/1.1\r\ncontent-type: application/x-protobuf\r\n");
        all.push([head.as_bytes(), b"\r\n", body].concat());
        if body.len() < 4096
            && let Ok(packed) = zstd::encode_all(&body[..], 1)
        {
            let coding = b"content-encoding: zstd\r\n\r\n";
            all.push([head.as_bytes(), coding, &packed].concat());
        }
    }
    for bomb in BOMBS.iter() {
        let head = b"POST /api/v1/asample HTTP/1.1\r\ncontent-encoding: zstd\r\n\r\n";
        all.push([&head[..], bomb].concat());
    }
    all
}

/// Returns seed inputs that contain all bytes that a client sends on a connection: short and long
/// requests, several requests in a row, and HTTP/2 connections.
pub(crate) fn connections() -> Vec<Vec<u8>> {
    let mut all = requests();
    all.retain(|bytes| bytes.len() < 4096);
    // This body is larger than the size limit of the server.
    let long = b"9".repeat(5 << 20);
    let head = "POST /api/v1/asample HTTP/1.1\r\nhost: tinker\r\ncontent-length: 5242880\r\n\r\n";
    all.push([head.as_bytes(), &long].concat());
    let three = [Route::CreateSession, Route::Sample, Route::RetrieveFuture];
    all.push(three.map(|route| client_request(route, "tinker")).concat());
    all.extend(http_2());
    all
}

/// Returns the bytes of four HTTP/2 connections without an HTTP/1.1 upgrade ("prior knowledge").
/// Three connections each send one request: without a body, with a body, and with an incomplete
/// body. The fourth connection sends invalid frames.
pub(crate) fn http_2() -> [Vec<u8>; 4] {
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    };
    // The method and the scheme are indices into the static table. The path is a literal.
    let head = |method: u8, path: &str| {
        let path = [&[0x04, path.len() as u8], path.as_bytes()].concat();
        [&[0x80 | method, 0x86], &path[..], b"\x41\x01a"].concat()
    };
    let start = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &frame(4, 0, 0, &[])[..],
    ]
    .concat();
    let get = head(2, "/api/v1/healthz");
    let post = head(3, "/api/v1/create_session");
    let (data, headers, settings) = (0, 1, 4);
    [
        [&start[..], &frame(headers, 5, 1, &get)].concat(),
        [
            &start[..],
            &frame(headers, 4, 1, &post),
            &frame(data, 1, 1, br#"{"sdk_version":"0.38.0"}"#),
            &frame(headers, 5, 3, &get),
        ]
        .concat(),
        [
            &start[..],
            &frame(headers, 4, 1, &post),
            &frame(data, 0, 1, b"{"),
        ]
        .concat(),
        [
            &start[..],
            &frame(settings, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff]),
            &frame(data, 1, 7, b"unexpected"),
        ]
        .concat(),
    ]
}
