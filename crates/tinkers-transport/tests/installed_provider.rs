//! A rustls provider that the program installs as the default of the process. The only test of its binary, since it changes the process.

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::ring::{cipher_suite, default_provider};
use rustls::pki_types::PrivateKeyDer;
use rustls::{CipherSuite, ServerConfig};
use tinkers_core::{RouteClass, Transport};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use common::{client, get, listen};

mod common;

#[tokio::test]
async fn installed_default_tls_provider_is_used() {
    let mut provider = default_provider();
    provider.cipher_suites = vec![cipher_suite::TLS13_CHACHA20_POLY1305_SHA256];
    provider.install_default().expect("the first one");

    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["localhost".to_owned()]).expect("valid");
    let certificate = params.self_signed(&key).expect("signs");
    let private = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    // All suites of the server, which prefers others.
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .expect("a pair");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (report, mut suites) = mpsc::unbounded_channel();
    let (address, _) = listen(move |stream, _| {
        let (acceptor, report) = (acceptor.clone(), report.clone());
        async move {
            let stream = acceptor.accept(stream).await.expect("a handshake");
            let suite = stream.get_ref().1.negotiated_cipher_suite();
            let _ = report.send(suite.expect("negotiated").suite());
        }
    });
    let transport = client(&format!("https://localhost:{}", address.port()))
        .root_certificate_pem(certificate.pem())
        .build()
        .expect("valid");
    // The server closes the connection after the handshake.
    let sent = transport.send(get("/x", RouteClass::Rest)).await;
    sent.expect_err("no response");
    let suite = suites.recv().await.expect("a handshake");
    assert_eq!(suite, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
}
