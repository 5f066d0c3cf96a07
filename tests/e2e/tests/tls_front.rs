//! A TLS server with a certificate authority of the test, which forwards the bytes of its connections to a server without TLS.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A certificate authority for tests of TLS.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap());
        Self(issuer.unwrap())
    }

    /// Returns the certificate of the authority in PEM form.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Issues a certificate for `name`. Returns the certificate and its private key in PEM form.
    pub(crate) fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// A TLS server for `localhost` that forwards connections to a server without TLS.
pub(crate) struct TlsFront {
    pub(crate) url: String,
    protocols: Arc<Mutex<BTreeSet<String>>>,
}

impl TlsFront {
    /// Starts a TLS server for `localhost` that forwards connections to the server at `url`. Its
    /// certificate is issued by `authority`. If `clients` is given, clients must present a
    /// certificate of that authority.
    pub(crate) async fn start(
        url: &str,
        authority: &Authority,
        clients: Option<&Authority>,
    ) -> Self {
        let backend = url.trim_start_matches("http://").to_owned();
        let acceptor = TlsAcceptor::from(Arc::new(config(authority, clients)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let protocols: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let recorded = Arc::clone(&protocols);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, recorded) = (acceptor.clone(), Arc::clone(&recorded));
                let backend = backend.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let protocol = stream.get_ref().1.alpn_protocol().unwrap_or_default();
                    let protocol = String::from_utf8_lossy(protocol).into_owned();
                    recorded.lock().unwrap().insert(protocol);
                    let mut backend = TcpStream::connect(backend).await.unwrap();
                    // Either side may end the connection at any time.
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut backend).await;
                });
            }
        });
        Self {
            url: format!("https://localhost:{port}"),
            protocols,
        }
    }

    /// Returns the application protocols (ALPN) that clients have negotiated with this TLS server.
    pub(crate) fn protocols(&self) -> BTreeSet<String> {
        self.protocols.lock().unwrap().clone()
    }
}

fn config(authority: &Authority, clients: Option<&Authority>) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add(certificate(&clients.pem())).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let (chain, key) = authority.issue("localhost");
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let mut config = builder
        .with_single_cert(vec![certificate(&chain)], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}
