//! A peer that speaks another protocol is named as that.

use std::net::SocketAddr;

use tinkers_core::{RouteClass, Sent, Transport, TransportError, TransportErrorKind};
use tinkers_transport::{Protocol, ProxyConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use common::secure::secure;
use common::{Server, Speak, answer, client, closed, get, listen};

mod common;

/// A peer that says `words` as soon as somebody connects or, if it is to be asked first, when something has come.
fn peer(asked: bool, words: &'static [u8]) -> SocketAddr {
    let (address, _) = listen(move |mut stream, _| async move {
        if asked {
            let _ = stream.read(&mut [0; 4096]).await;
        }
        let _ = stream.write_all(words).await;
        let _ = stream.shutdown().await;
        closed(&mut stream).await;
    });
    address
}

const SSH: &[u8] = b"SSH-2.0-OpenSSH_9.6\r\n";
const TLS_ALERT: &[u8] = b"\x15\x03\x01\x00\x02\x02\x46";
const BAD_REQUEST: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";

async fn ask(url: String, protocol: Protocol, proxy: ProxyConfig) -> TransportError {
    let transport = client(&url).protocol(protocol).proxy(proxy).build();
    let request = get("/x", RouteClass::Rest);
    let outcome = transport.expect("valid").send(request).await;
    outcome.expect_err("another protocol")
}

#[tokio::test]
async fn a_server_of_another_protocol_is_named_as_that() {
    let http1 = Server::start(Speak::Http1, |_| answer("x"));
    let http2 = Server::start(Speak::Http2, |_| answer("x"));
    let tls = secure(&["http/1.1"]);
    let tls = tls.url.replace("https://", "");
    let (plain, prior) = (Protocol::Http1, Protocol::Http2PriorKnowledge);
    for (scheme, place, protocol, kind, words) in [
        // HTTP without TLS to a port with TLS, and the other way round.
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
        // The two versions of HTTP.
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
            "speaks HTTP/1.1 and no HTTP/2",
        ),
        // Something else.
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
        let error = ask(format!("{scheme}://{place}"), protocol, ProxyConfig::none()).await;
        assert_eq!(
            (error.kind, error.sent),
            (kind, Sent::NotSent),
            "{scheme} {words}: {error}"
        );
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert!(error.to_string().contains(&place), "{error}");
    }
}

#[tokio::test]
async fn a_proxy_of_another_protocol_is_named_as_that() {
    let wants_password: &[u8] =
        b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n";
    for (scheme, words_of_peer, words) in [
        ("https", &b"\x05\xff"[..], "speaks SOCKS"),
        ("https", b"", "SOCKS"),
        ("https", TLS_ALERT, "speaks TLS"),
        ("https", SSH, "speaks SSH"),
        ("https", wants_password, "user:password@"),
        ("https", b"HTTP/1.1 503 Busy\r\n\r\n", "status 503"),
        ("http", b"\x05\xff", "speaks SOCKS"),
        ("http", TLS_ALERT, "speaks TLS"),
    ] {
        let address = peer(true, words_of_peer);
        let proxy = ProxyConfig::from_variables(|name| {
            (name == "ALL_PROXY").then(|| format!("http://{address}"))
        });
        let error = ask(format!("{scheme}://far.test"), Protocol::Http1, proxy).await;
        assert_eq!(error.sent, Sent::NotSent, "{error}");
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert!(
            error.to_string().contains(&format!("the proxy {address}")),
            "{error}"
        );
    }
}
