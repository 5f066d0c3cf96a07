//! TLS configuration for rustls.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};
use tinkers_core::{
    Error, Origin, RecoveredError, RecoveredErrors, Scheme, Sent, TransportError,
    TransportErrorKind,
};
use tokio_rustls::TlsConnector;

use crate::client_certificate::ClientCertificate;
use crate::root_certificates::RootFiles;

/// The HTTP versions that a transport uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum HttpVersions {
    /// HTTP/2 if it is negotiated in the TLS handshake, else HTTP/1.1.
    #[default]
    Negotiate,
    /// Only HTTP/1.1 is used.
    Http1,
    /// HTTP/2 without negotiation (prior knowledge), also on connections without TLS. For servers that are known to support HTTP/2.
    Http2PriorKnowledge,
}

/// The certificates of the transport, and the TLS configuration made from them.
#[derive(Debug, Default)]
pub(crate) struct Tls {
    roots: RootFiles,
    added_roots: Vec<CertificateDer<'static>>,
    client_certificate: Option<Arc<SingleCertAndKey>>,
    recovered_errors: Arc<RecoveredErrors>,
    /// The TLS configuration. It is created on first use, since plain HTTP does not need the certificates.
    config: Mutex<Option<Arc<ClientConfig>>>,
}

impl Tls {
    pub(crate) fn new(
        roots: RootFiles,
        added_roots: Vec<CertificateDer<'static>>,
        client_certificate: Option<&ClientCertificate>,
        recovered_errors: Arc<RecoveredErrors>,
    ) -> Result<Self, Error> {
        let mut probe = RootCertStore::empty();
        for certificate in &added_roots {
            probe.add(certificate.clone()).map_err(|error| {
                Error::invalid("root_certificate", "an X.509 certificate in PEM form")
                    .with_source(error)
            })?;
        }
        if roots.is_none() && added_roots.is_empty() {
            let expected = "at least one certificate, since those of the system are not trusted";
            return Err(Error::invalid("root_certificate", expected));
        }
        let client_certificate = match (client_certificate, provider()) {
            (None, _) => None,
            (Some(_), None) => return Err(Error::invalid("client_certificate", NO_PROVIDER)),
            (Some(certificate), Some(provider)) => Some(certificate.resolver(&provider)?),
        };
        Ok(Self {
            roots,
            added_roots,
            client_certificate,
            recovered_errors,
            config: Mutex::new(None),
        })
    }

    /// Returns the TLS connector for connections to `origin`, and the server name that the server's certificate must have. The client
    /// certificate is used only if `is_trusted`, that is, for the origin of the base URL.
    ///
    /// # Errors
    /// `Tls` if there is no root certificate or no TLS provider, or the host is not a valid server name.
    pub(crate) fn connector(
        &self,
        origin: &Origin,
        versions: HttpVersions,
        is_trusted: bool,
    ) -> Result<(TlsConnector, ServerName<'static>), TransportError> {
        let mut config = ClientConfig::clone(&*self.config()?);
        match &self.client_certificate {
            Some(certificate) if is_trusted => {
                config.client_auth_cert_resolver = Arc::<SingleCertAndKey>::clone(certificate);
            }
            // A resumed session would identify the client, too.
            Some(_) => config.resumption = Resumption::disabled(),
            None => {}
        }
        config.alpn_protocols = match versions {
            HttpVersions::Negotiate => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            HttpVersions::Http1 => vec![b"http/1.1".to_vec()],
            HttpVersions::Http2PriorKnowledge => vec![b"h2".to_vec()],
        };
        Ok((TlsConnector::from(Arc::new(config)), server_name(origin)?))
    }

    /// Returns the environment variables that name the root certificate files; `None` if the certificate store of the system is used.
    pub(crate) fn root_variables(&self) -> Option<&str> {
        self.roots.variables()
    }

    fn config(&self) -> Result<Arc<ClientConfig>, TransportError> {
        let mut cached = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = &*cached {
            return Ok(Arc::clone(config));
        }
        let provider =
            provider().ok_or_else(|| failed(format!("cannot use TLS: expected {NO_PROVIDER}")))?;
        let mut roots = RootCertStore::empty();
        let loaded = self.roots.load();
        for problem in &loaded.problems {
            self.recovered_errors.count(RecoveredError::Certificate);
            tracing::warn!(
                recovered_error = RecoveredError::Certificate.name(),
                "{problem}"
            );
        }
        // Certificates that rustls cannot parse are skipped.
        roots.add_parsable_certificates(loaded.certificates);
        roots.add_parsable_certificates(self.added_roots.iter().cloned());
        if roots.is_empty() {
            return Err(failed(self.roots.missing_message(&loaded.problems)));
        }
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed("cannot configure TLS").with_source(error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::clone(cached.insert(Arc::new(config))))
    }
}

/// The end of the error message "invalid base_url: expected …", for an https URL in a program without a TLS provider.
const NO_PROVIDER: &str = "a TLS provider; enable the feature `ring` or `aws-lc-rs` of the crate tinkers, or install a \
                           rustls CryptoProvider as the default of the process";

/// Checks that there is a TLS provider (cryptography library) if the scheme of `origin` is https.
///
/// # Errors
/// `InvalidInput` with the field `base_url`.
pub(crate) fn check_provider(
    origin: &Origin,
    provider: Option<&CryptoProvider>,
) -> Result<(), Error> {
    match origin.scheme() == Scheme::Https && provider.is_none() {
        true => {
            let expected = format!("an http URL, or {NO_PROVIDER}");
            Err(Error::invalid("base_url", expected))
        }
        false => Ok(()),
    }
}

/// Returns the TLS provider (cryptography library): the default provider of the process if the program has installed one, or the provider
/// that a feature of the crate selects.
pub(crate) fn provider() -> Option<Arc<CryptoProvider>> {
    CryptoProvider::get_default().cloned().or_else(built_in)
}

#[cfg(feature = "aws-lc-rs")]
fn built_in() -> Option<Arc<CryptoProvider>> {
    Some(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
fn built_in() -> Option<Arc<CryptoProvider>> {
    Some(Arc::new(rustls::crypto::ring::default_provider()))
}

#[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
fn built_in() -> Option<Arc<CryptoProvider>> {
    None
}

/// Parses the certificates in a PEM text.
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

/// Returns the name that the server's certificate must have: the host of `origin`, with hyphens for underscores, which are not valid in
/// certificates.
fn server_name(origin: &Origin) -> Result<ServerName<'static>, TransportError> {
    ServerName::try_from(origin.bare_host().replace('_', "-")).map_err(|error| {
        failed(format!(
            "{} is not a valid server name for TLS; check the base URL",
            origin.host()
        ))
        .with_source(error)
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
    fn underscore_in_a_tls_server_name_becomes_a_hyphen() {
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
    fn invalid_root_certificates_are_rejected() {
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
            None,
            Arc::default(),
        )
        .expect_err("no X.509");
        assert_eq!(error.field(), Some("root_certificate"));
    }

    #[test]
    fn error_for_https_without_a_tls_provider_names_the_crate_features() {
        let secure = BaseUrl::parse("https://h").expect("valid");
        let plain = BaseUrl::parse("http://h").expect("valid");
        check_provider(plain.origin(), None).expect("no TLS is needed");
        let provider = rustls::crypto::ring::default_provider();
        check_provider(secure.origin(), Some(&provider)).expect("there is TLS");
        let error = check_provider(secure.origin(), None).expect_err("no TLS");
        assert_eq!(error.field(), Some("base_url"));
        let text = error.to_string();
        assert!(
            text.contains("`ring`") && text.contains("`aws-lc-rs`"),
            "{text}"
        );
    }

    #[test]
    fn default_tls_provider_depends_on_the_crate_features() {
        let has_feature = cfg!(any(feature = "ring", feature = "aws-lc-rs"));
        assert_eq!(built_in().is_some(), has_feature);
    }
}
