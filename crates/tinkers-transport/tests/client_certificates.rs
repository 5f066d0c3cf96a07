//! Client certificates are sent only to the origin of the base URL.

use std::sync::{Arc, Mutex};

use http::Response;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tinkers_core::{RouteClass, Transport};
use tinkers_transport::{ClientCertificate, HttpVersions};
use tokio_rustls::TlsAcceptor;

use common::{RecordedRequest, ServerVersion, client, get, listen, respond, respond_with, serve};

mod common;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new([]).expect("valid");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signs")
}

/// A record for each connection that the test server has accepted: whether the client sent a certificate.
type Authenticated = Arc<Mutex<Vec<bool>>>;

/// Starts a TLS server that asks for a client certificate. The server redirects all requests to the URL `to`. If `to` is `None`, it
/// responds with the body `here` instead.
fn server(authority: &Authority, to: Option<String>) -> (String, Authenticated) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["localhost".to_owned()]).expect("valid");
    let leaf = params.signed_by(&key, authority).expect("signs");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).expect("a certificate");
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .expect("valid");
    let private = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![leaf.der().clone()], private)
        .expect("a pair");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let authenticated = Authenticated::default();
    let recorded = Arc::clone(&authenticated);
    let handler = Arc::new(move |_: RecordedRequest| match &to {
        Some(to) => {
            let response = Response::builder().status(302).header("location", to);
            respond(response.body("moved".into()).expect("valid"))
        }
        None => respond_with("here"),
    });
    let (address, _) = listen(move |stream, number| {
        let (acceptor, recorded) = (acceptor.clone(), Arc::clone(&recorded));
        let handler = Arc::clone(&handler);
        async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let has_certificate = stream.get_ref().1.peer_certificates().is_some();
            recorded.lock().expect("no panic").push(has_certificate);
            serve(
                stream,
                ServerVersion::Http1,
                number,
                Arc::default(),
                handler,
            )
            .await;
        }
    });
    (
        format!("https://localhost:{}", address.port()),
        authenticated,
    )
}

#[tokio::test]
async fn client_certificate_is_not_sent_to_another_origin() {
    let authority = authority();
    let (other_url, other) = server(&authority, None);
    let (url, own) = server(&authority, Some(format!("{other_url}/x")));
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["client".to_owned()]).expect("valid");
    let chain = params.signed_by(&key, &authority).expect("signs").pem();
    let transport = client(&url)
        .http_versions(HttpVersions::Http1)
        .root_certificate_pem(authority.pem())
        .client_certificate(ClientCertificate::from_pem(chain, key.serialize_pem()))
        .build()
        .expect("valid");
    let response = transport.send(get("/x", RouteClass::Rest)).await;
    assert_eq!(response.expect("a response").body, "here");
    assert_eq!(*own.lock().expect("no panic"), [true]);
    assert_eq!(*other.lock().expect("no panic"), [false]);
}
