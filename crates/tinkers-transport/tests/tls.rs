//! TLS with a certificate authority of the test's own: trust, ALPN, and the name that is asked for.

use tinkers_core::{RouteClass, Sent, Transport, TransportErrorKind};
use tinkers_transport::Protocol;

use common::secure::secure;
use common::{client, get, listen};

mod common;

#[tokio::test]
async fn http2_is_spoken_where_tls_agrees_on_it_and_http1_elsewhere() {
    for (offered, protocol, agreed) in [
        (&["h2", "http/1.1"][..], Protocol::Negotiate, Some("h2")),
        (&["http/1.1"][..], Protocol::Negotiate, Some("http/1.1")),
        (&[][..], Protocol::Negotiate, None),
        (&["h2", "http/1.1"][..], Protocol::Http1, Some("http/1.1")),
    ] {
        let server = secure(offered);
        let transport = client(&server.url)
            .protocol(protocol)
            .root_certificate_pem(server.authority.clone())
            .build()
            .expect("valid");
        // Concurrently, so that the pool must guess what a connection carries before the first one tells.
        let sends: Vec<_> = (0..20)
            .map(|_| {
                let transport = transport.clone();
                tokio::spawn(async move { transport.send(get("/x", RouteClass::Rest)).await })
            })
            .collect();
        for send in sends {
            assert_eq!(
                send.await.expect("no panic").expect("answered").body,
                "secure"
            );
        }
        let seen = server.agreed.lock().expect("no panic").clone();
        assert!(
            seen.iter()
                .all(|(alpn, name)| alpn.as_deref() == agreed
                    && name.as_deref() == Some("localhost")),
            "{seen:?}"
        );
        if agreed == Some("h2") {
            assert_eq!(seen.len(), 1, "one connection carries them all");
        }
    }
}

#[tokio::test]
async fn an_authority_that_nobody_trusts_is_a_tls_error_and_nothing_was_sent() {
    let (server, stranger) = (secure(&["h2"]), secure(&["h2"]));
    let transport = client(&server.url)
        .root_certificate_pem(stranger.authority.clone())
        .build()
        .expect("valid");
    let error = transport
        .send(get("/x", RouteClass::Rest))
        .await
        .expect_err("not trusted");
    assert_eq!(
        (error.kind, error.sent),
        (TransportErrorKind::Tls, Sent::NotSent)
    );
    assert!(error.to_string().contains("localhost"), "{error}");
    assert!(error.source.is_some());
}

#[tokio::test]
async fn a_certificate_for_another_name_is_a_tls_error() {
    let server = secure(&["h2"]);
    let url = server.url.replace("localhost", "127.0.0.1");
    let transport = client(&url)
        .root_certificate_pem(server.authority.clone())
        .build()
        .expect("valid");
    let error = transport
        .send(get("/x", RouteClass::Rest))
        .await
        .expect_err("another name");
    assert_eq!(
        (error.kind, error.sent),
        (TransportErrorKind::Tls, Sent::NotSent)
    );
}

#[tokio::test]
async fn a_server_without_tls_is_a_tls_error() {
    let (address, _) = listen(|mut stream, _| async move {
        common::write(&mut stream, "HTTP/1.1 400 Bad Request\r\n\r\n").await;
        common::closed(&mut stream).await;
    });
    let server = secure(&["h2"]);
    let transport = client(&format!("https://{address}"))
        .root_certificate_pem(server.authority)
        .build()
        .expect("valid");
    let error = transport
        .send(get("/x", RouteClass::Rest))
        .await
        .expect_err("plain text");
    assert_eq!(
        (error.kind, error.sent),
        (TransportErrorKind::Tls, Sent::NotSent)
    );
}
