//! TLS by rustls with ring.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tinkers_core::{
    Error, Origin, RecoveredError, RecoveredErrors, Sent, TransportError, TransportErrorKind,
};
use tokio_rustls::TlsConnector;

use crate::roots::RootFiles;

/// Which versions of HTTP are offered, and whether HTTP/2 is spoken without asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Protocol {
    /// HTTP/2 where TLS agrees on it, else HTTP/1.1.
    #[default]
    Negotiate,
    /// HTTP/1.1 alone.
    Http1,
    /// HTTP/2 at once, over plain TCP too; for servers known to speak it.
    Http2PriorKnowledge,
}

/// Makes TLS configurations, with the roots of the system or of its variables, and those added.
#[derive(Debug, Default)]
pub(crate) struct Tls {
    roots: RootFiles,
    added: Vec<CertificateDer<'static>>,
    recovered_errors: Arc<RecoveredErrors>,
    /// Made on first use: plain HTTP never pays for reading the certificates.
    made: Mutex<Option<Arc<ClientConfig>>>,
}

impl Tls {
    pub(crate) fn new(
        roots: RootFiles,
        added: Vec<CertificateDer<'static>>,
        recovered_errors: Arc<RecoveredErrors>,
    ) -> Result<Self, Error> {
        let mut probe = RootCertStore::empty();
        for certificate in &added {
            probe.add(certificate.clone()).map_err(|error| {
                Error::invalid("root_certificate", "an X.509 certificate in PEM form")
                    .with_source(error)
            })?;
        }
        Ok(Self {
            roots,
            added,
            recovered_errors,
            made: Mutex::new(None),
        })
    }

    /// What wraps a TCP connection to `origin`, and the name to ask for.
    pub(crate) fn connector(
        &self,
        origin: &Origin,
        protocol: Protocol,
    ) -> Result<(TlsConnector, ServerName<'static>), TransportError> {
        let mut config = ClientConfig::clone(&*self.config()?);
        config.alpn_protocols = match protocol {
            Protocol::Negotiate => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Protocol::Http1 => vec![b"http/1.1".to_vec()],
            Protocol::Http2PriorKnowledge => vec![b"h2".to_vec()],
        };
        Ok((TlsConnector::from(Arc::new(config)), server_name(origin)?))
    }

    /// The variables that name the trusted certificates, where the system's store is not what is used.
    pub(crate) fn trust(&self) -> Option<&str> {
        self.roots.variables()
    }

    fn config(&self) -> Result<Arc<ClientConfig>, TransportError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = &*made {
            return Ok(Arc::clone(config));
        }
        let mut roots = RootCertStore::empty();
        let read = self.roots.read();
        for problem in &read.problems {
            self.recovered_errors.count(RecoveredError::Certificate);
            tracing::warn!(
                recovered_error = RecoveredError::Certificate.name(),
                "{problem}"
            );
        }
        // A store may hold a certificate that rustls does not read; the others still serve.
        roots.add_parsable_certificates(read.certificates);
        roots.add_parsable_certificates(self.added.iter().cloned());
        if roots.is_empty() {
            return Err(failed(self.roots.nothing(&read.problems)));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed("TLS cannot be set up").with_source(error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::clone(made.insert(Arc::new(config))))
    }
}

/// Reads all certificates of a PEM text.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let invalid = || {
        Error::invalid(
            "root_certificate",
            "one or more X.509 certificates in PEM form",
        )
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| invalid().with_source(error))?;
    if found.is_empty() {
        Err(invalid())
    } else {
        Ok(found)
    }
}

/// The name asked for: an underscore, which no certificate may hold, becomes a hyphen.
fn server_name(origin: &Origin) -> Result<ServerName<'static>, TransportError> {
    ServerName::try_from(origin.bare_host().replace('_', "-")).map_err(|error| {
        failed(format!("{} is no name that TLS can ask for", origin.host())).with_source(error)
    })
}

fn failed(message: impl Into<String>) -> TransportError {
    TransportError::new(TransportErrorKind::Tls, Sent::NotSent, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinkers_core::BaseUrl;

    #[test]
    fn an_underscore_is_asked_for_as_a_hyphen() {
        for (url, name) in [
            ("https://my_pod.example.com", "my-pod.example.com"),
            ("https://plain.example.com", "plain.example.com"),
            ("https://[::1]:8443", "::1"),
        ] {
            let url = BaseUrl::parse(url).expect("valid");
            assert_eq!(server_name(url.origin()).expect("a name").to_str(), name);
        }
    }

    #[test]
    fn what_is_no_certificate_is_refused_by_name() {
        for pem in [
            &b""[..],
            b"junk",
            b"-----BEGIN CERTIFICATE-----\n%%\n-----END CERTIFICATE-----\n",
        ] {
            assert_eq!(
                certificates(pem).expect_err("no certificate").field(),
                Some("root_certificate")
            );
        }
        let shape = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let error = Tls::new(
            RootFiles::default(),
            certificates(shape).expect("PEM"),
            Arc::default(),
        )
        .expect_err("no X.509");
        assert_eq!(error.field(), Some("root_certificate"));
    }
}
