//! A TLS server with a certificate authority of its own.

use std::future::Future;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::{RecordedRequest, ServerVersion, listen, respond_with, serve};

pub(crate) struct Secure {
    pub(crate) url: String,
    pub(crate) authority: String,
    /// For each connection, the application protocol negotiated in the TLS handshake (ALPN), and the server name that the client requested.
    pub(crate) agreed: Arc<Mutex<Vec<Agreed>>>,
}

pub(crate) type Agreed = (Option<String>, Option<String>);

/// Starts a TLS server for `localhost` that offers the application protocols `protocols`. The server responds with the body `secure`, but
/// never responds to a request for `/held`.
pub(crate) fn secure(protocols: &[&str]) -> Secure {
    secure_after(protocols, |stream, _| async { Some(stream) })
}

/// Starts the same TLS server as [`secure`], and runs `before` on each new connection before the TLS handshake. If `before` returns `None`,
/// the server closes the connection.
pub(crate) fn secure_after<F>(
    protocols: &[&str],
    before: impl Fn(TcpStream, usize) -> F + Send + Sync + 'static,
) -> Secure
where
    F: Future<Output = Option<TcpStream>> + Send + 'static,
{
    let mut params = CertificateParams::new([]).expect("valid");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority =
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signs");
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(["localhost".to_owned()])
        .expect("valid")
        .signed_by(&key, &authority)
        .expect("signs");
    let private = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let mut config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], private)
            .expect("a pair");
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let agreed = Arc::new(Mutex::new(Vec::new()));
    let (address, _) = listen({
        let agreed = Arc::clone(&agreed);
        move |stream, number| {
            let (acceptor, agreed) = (acceptor.clone(), Arc::clone(&agreed));
            let stream = before(stream, number);
            async move {
                let Some(stream) = stream.await else { return };
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let session = stream.get_ref().1;
                let alpn = session
                    .alpn_protocol()
                    .map(|name| String::from_utf8_lossy(name).into_owned());
                let server_version = if alpn.as_deref() == Some("h2") {
                    ServerVersion::Http2
                } else {
                    ServerVersion::Http1
                };
                let name = session.server_name().map(str::to_owned);
                agreed.lock().expect("no panic").push((alpn, name));
                serve(
                    stream,
                    server_version,
                    number,
                    Arc::default(),
                    Arc::new(|recorded: RecordedRequest| match recorded.uri.path() {
                        "/held" => Box::pin(std::future::pending()),
                        _ => respond_with("secure"),
                    }),
                )
                .await;
            }
        }
    });
    Secure {
        url: format!("https://localhost:{}", address.port()),
        authority: authority.pem(),
        agreed,
    }
}
