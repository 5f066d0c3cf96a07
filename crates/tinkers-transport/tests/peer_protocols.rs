//! Errors about peers that speak another protocol.

use std::net::SocketAddr;

use tinkers_core::{RouteClass, Sent, Transport, TransportError, TransportErrorKind};
use tinkers_transport::{HttpVersions, ProxyConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use common::secure::secure;
use common::{Server, ServerVersion, client, closed, get, listen, respond_with};

mod common;

/// Starts a server that sends `bytes` and closes the connection. If `waits`, the server first waits until it has received a byte.
fn peer(waits: bool, bytes: &'static [u8]) -> SocketAddr {
    let (address, _) = listen(move |mut stream, _| async move {
        if waits {
            let _ = stream.read(&mut [0; 4096]).await;
        }
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        closed(&mut stream).await;
    });
    address
}

const SSH: &[u8] = b"SSH-2.0-OpenSSH_9.6\r\n";
const TLS_ALERT: &[u8] = b"\x15\x03\x01\x00\x02\x02\x46";
const BAD_REQUEST: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";

async fn send_to(url: String, versions: HttpVersions, proxy: ProxyConfig) -> TransportError {
    let transport = client(&url).http_versions(versions).proxy(proxy).build();
    let request = get("/x", RouteClass::Rest);
    let outcome = transport.expect("valid").send(request).await;
    outcome.expect_err("another protocol")
}

#[tokio::test]
async fn error_names_the_protocol_of_a_server_that_is_not_http() {
    let http1 = Server::start(ServerVersion::Http1, |_| respond_with("x"));
    let http2 = Server::start(ServerVersion::Http2, |_| respond_with("x"));
    let tls = secure(&["http/1.1"]);
    let tls = tls.url.replace("https://", "");
    let (plain, prior) = (HttpVersions::Http1, HttpVersions::Http2PriorKnowledge);
    for (scheme, address, versions, kind, expected) in [
        // Plain HTTP to a TLS port, and TLS to a plain HTTP port.
        (
            "http",
            tls.clone(),
            plain,
            TransportErrorKind::Decode,
            "speaks TLS",
        ),
        ("http", tls, prior, TransportErrorKind::Decode, "speaks TLS"),
        (
            "http",
            peer(true, TLS_ALERT).to_string(),
            plain,
            TransportErrorKind::Decode,
            "use https://",
        ),
        (
            "https",
            http1.address.to_string(),
            plain,
            TransportErrorKind::Tls,
            "use http://",
        ),
        (
            "https",
            peer(true, BAD_REQUEST).to_string(),
            plain,
            TransportErrorKind::Tls,
            "use http://",
        ),
        // The other version of HTTP.
        (
            "http",
            http2.address.to_string(),
            plain,
            TransportErrorKind::Decode,
            "speaks HTTP/2",
        ),
        (
            "http",
            peer(true, BAD_REQUEST).to_string(),
            prior,
            TransportErrorKind::Decode,
            "speaks HTTP/1.1 and not HTTP/2",
        ),
        // Other protocols.
        (
            "http",
            peer(false, SSH).to_string(),
            plain,
            TransportErrorKind::Decode,
            "speaks SSH",
        ),
        (
            "http",
            peer(false, SSH).to_string(),
            prior,
            TransportErrorKind::Decode,
            "speaks SSH",
        ),
        (
            "https",
            peer(false, SSH).to_string(),
            plain,
            TransportErrorKind::Tls,
            "speaks SSH",
        ),
        (
            "http",
            peer(true, b"\x05\xff").to_string(),
            plain,
            TransportErrorKind::Decode,
            "speaks SOCKS",
        ),
        (
            "https",
            peer(true, b"220 mail.example ESMTP\r\n").to_string(),
            plain,
            TransportErrorKind::Tls,
            "another protocol",
        ),
    ] {
        let error = send_to(
            format!("{scheme}://{address}"),
            versions,
            ProxyConfig::none(),
        )
        .await;
        assert_eq!(
            (error.kind, error.sent),
            (kind, Sent::NotSent),
            "{scheme} {expected}: {error}"
        );
        assert!(error.to_string().contains(expected), "{expected}: {error}");
        assert!(error.to_string().contains(&address), "{error}");
    }
}

#[tokio::test]
async fn error_names_the_protocol_of_a_proxy_that_is_not_http() {
    let authentication_required: &[u8] =
        b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n";
    for (scheme, greeting, expected) in [
        ("https", &b"\x05\xff"[..], "speaks SOCKS"),
        ("https", b"", "SOCKS"),
        ("https", TLS_ALERT, "speaks TLS"),
        ("https", SSH, "speaks SSH"),
        ("https", authentication_required, "user:password@"),
        ("https", b"HTTP/1.1 503 Busy\r\n\r\n", "status 503"),
        ("http", b"\x05\xff", "speaks SOCKS"),
        ("http", TLS_ALERT, "speaks TLS"),
    ] {
        let address = peer(true, greeting);
        let proxy = ProxyConfig::from_variables(|name| {
            (name == "ALL_PROXY").then(|| format!("http://{address}"))
        });
        let error = send_to(format!("{scheme}://far.test"), HttpVersions::Http1, proxy).await;
        assert_eq!(error.sent, Sent::NotSent, "{error}");
        assert!(error.to_string().contains(expected), "{expected}: {error}");
        assert!(
            error.to_string().contains(&format!("the proxy {address}")),
            "{error}"
        );
    }
}
