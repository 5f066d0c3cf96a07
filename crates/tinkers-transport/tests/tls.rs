//! TLS with a certificate authority of the test: trust, ALPN and server names.

use tinkers_core::{RouteClass, Sent, Transport, TransportErrorKind};
use tinkers_transport::HttpVersions;

use common::secure::secure;
use common::{client, get, listen};

mod common;

#[tokio::test]
async fn http_version_is_negotiated_in_the_tls_handshake() {
    for (offered, versions, agreed) in [
        (&["h2", "http/1.1"][..], HttpVersions::Negotiate, Some("h2")),
        (&["http/1.1"][..], HttpVersions::Negotiate, Some("http/1.1")),
        (&[][..], HttpVersions::Negotiate, None),
        (
            &["h2", "http/1.1"][..],
            HttpVersions::Http1,
            Some("http/1.1"),
        ),
    ] {
        let server = secure(offered);
        let transport = client(&server.url)
            .http_versions(versions)
            .root_certificate_pem(server.authority.clone())
            .build()
            .expect("valid");
        // Concurrent requests, so that the pool cannot know in advance whether connections are shared.
        let sends: Vec<_> = (0..20)
            .map(|_| {
                let transport = transport.clone();
                tokio::spawn(async move { transport.send(get("/x", RouteClass::Rest)).await })
            })
            .collect();
        for send in sends {
            assert_eq!(
                send.await.expect("no panic").expect("a response").body,
                "secure"
            );
        }
        let recorded = server.agreed.lock().expect("no panic").clone();
        assert!(
            recorded
                .iter()
                .all(|(alpn, name)| alpn.as_deref() == agreed
                    && name.as_deref() == Some("localhost")),
            "{recorded:?}"
        );
        if agreed == Some("h2") {
            assert_eq!(recorded.len(), 1, "one connection for all requests");
        }
    }
}

#[tokio::test]
async fn certificate_of_an_untrusted_authority_is_a_tls_error() {
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
async fn certificate_for_another_name_is_a_tls_error() {
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
async fn request_to_a_server_without_tls_is_a_tls_error() {
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
