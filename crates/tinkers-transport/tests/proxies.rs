//! Requests through a proxy: in absolute form for plain HTTP/1.1, through a tunnel otherwise, and directly to loopback.

use std::sync::{Arc, Mutex};

use tinkers_core::{RouteClass, Sent, Transport, TransportErrorKind};
use tinkers_transport::{HttpVersions, ProxyConfig};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use common::{
    API_KEY, Server, ServerVersion, client, get, listen, read_head, respond_with, secret, write,
};

mod common;

type Heads = Arc<Mutex<Vec<String>>>;

/// Starts a test proxy. The proxy opens every tunnel to the address `to`, or refuses tunnels if `to` is `None`. Requests with an absolute
/// URL, which need no tunnel, get a response from the proxy itself.
fn proxy(to: Option<std::net::SocketAddr>) -> (ProxyConfig, Heads) {
    let heads = Heads::default();
    let journal = Arc::clone(&heads);
    let (address, _) = listen(move |mut stream, _| {
        let journal = Arc::clone(&journal);
        async move {
            while let Some(head) = read_head(&mut stream).await {
                let tunnel = head.starts_with("CONNECT ");
                journal.lock().expect("no panic").push(head);
                match (tunnel, to) {
                    (false, _) => {
                        write(
                            &mut stream,
                            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nproxy",
                        )
                        .await
                    }
                    (true, None) => {
                        write(
                            &mut stream,
                            "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n",
                        )
                        .await
                    }
                    (true, Some(to)) => {
                        let mut server = TcpStream::connect(to).await.expect("connects");
                        stream
                            .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
                            .await
                            .expect("reads");
                        let _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
                        return;
                    }
                }
            }
        }
    });
    let config = ProxyConfig::from_variables(|name| match name {
        "ALL_PROXY" => Some(format!("http://user:pass@{address}")),
        "NO_PROXY" => Some("direct.test".to_owned()),
        _ => None,
    });
    (config, heads)
}

#[tokio::test]
async fn plain_http_requests_reach_the_proxy_in_absolute_form() {
    let (config, heads) = proxy(None);
    let transport = client("http://far.test:8080/base")
        .proxy(config)
        .build()
        .expect("valid");
    for _ in 0..2 {
        let response = transport
            .send(get("/x?y=1", RouteClass::Rest))
            .await
            .expect("a response");
        assert_eq!(response.body, "proxy");
        common::until(|| transport.stats(RouteClass::Rest).in_use == 0).await;
    }
    let heads = heads.lock().expect("no panic").clone();
    assert_eq!(heads.len(), 2);
    for head in heads {
        assert!(
            head.starts_with("GET http://far.test:8080/base/x?y=1 HTTP/1.1\r\n"),
            "{head}"
        );
        assert!(head.contains("host: far.test:8080\r\n"), "{head}");
        assert!(
            head.contains("proxy-authorization: Basic dXNlcjpwYXNz\r\n"),
            "{head}"
        );
    }
    assert_eq!(transport.stats(RouteClass::Rest).opened, 1);
}

#[tokio::test]
async fn http2_is_tunnelled_and_hides_the_api_key_from_the_proxy() {
    let server = Server::start(ServerVersion::Http2, |_| respond_with("through"));
    let (config, heads) = proxy(Some(server.address));
    let transport = client("http://far.test:8080")
        .default_header(API_KEY, secret("tml-hush"))
        .http_versions(HttpVersions::Http2PriorKnowledge)
        .proxy(config)
        .build()
        .expect("valid");
    let response = transport
        .send(get("/x", RouteClass::Rest))
        .await
        .expect("a response");
    assert_eq!(response.body, "through");
    let heads = heads.lock().expect("no panic").clone();
    assert_eq!(heads.len(), 1);
    assert!(
        heads[0].starts_with("CONNECT far.test:8080 HTTP/1.1\r\n"),
        "{heads:?}"
    );
    assert!(heads[0].contains("Basic dXNlcjpwYXNz"), "{heads:?}");
    assert!(!heads[0].contains("hush"), "{heads:?}");
    let recorded = &server.requests()[0];
    assert_eq!(recorded.header("x-api-key"), Some("tml-hush"));
    assert!(!recorded.headers.contains_key("proxy-authorization"));
}

#[tokio::test]
async fn error_of_a_refused_tunnel_names_the_proxy() {
    let (config, heads) = proxy(None);
    let transport = client("https://far.test")
        .proxy(config)
        .build()
        .expect("valid");
    let error = transport
        .send(get("/x", RouteClass::Rest))
        .await
        .expect_err("refused");
    assert_eq!(
        (error.kind, error.sent),
        (TransportErrorKind::Connect, Sent::NotSent)
    );
    assert!(
        error
            .to_string()
            .contains("far.test:443 through the proxy 127.0.0.1"),
        "{error}"
    );
    assert!(heads.lock().expect("no panic")[0].starts_with("CONNECT far.test:443 HTTP/1.1\r\n"));
}

#[tokio::test]
async fn loopback_address_is_reached_without_the_proxy() {
    let server = Server::start(ServerVersion::Http1, |_| respond_with("direct"));
    let (config, heads) = proxy(None);
    let transport = client(&server.url()).proxy(config).build().expect("valid");
    let response = transport
        .send(get("/x", RouteClass::Rest))
        .await
        .expect("a response");
    assert_eq!(response.body, "direct");
    assert!(heads.lock().expect("no panic").is_empty());
}
