//! The certificate with which the client authenticates itself in the TLS handshake.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use secrecy::{ExposeSecret, SecretSlice};
use tinkers_core::Error;

/// A certificate chain and its private key, for servers that authenticate clients by TLS (mutual TLS).
///
/// `Debug` does not show the private key, and the PEM text of the private key is overwritten in memory when the value is dropped.
#[derive(Clone)]
pub struct ClientCertificate {
    chain: Vec<u8>,
    key: SecretSlice<u8>,
}

/// The name of the field in errors about an invalid client certificate.
const FIELD: &str = "client_certificate";

impl ClientCertificate {
    /// Creates a client certificate from a certificate chain and a private key in PEM form. The client's own certificate is the first of
    /// the chain. The private key is in PKCS #8, PKCS #1 or SEC 1 form, not encrypted. Chain and key are checked when the transport is
    /// built.
    pub fn from_pem(chain: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        Self {
            chain: chain.into(),
            key: SecretSlice::from(key.into()),
        }
    }

    /// Parses the certificate chain and the private key, and returns them in the form that rustls needs to present the certificate to a
    /// server.
    ///
    /// # Errors
    /// `InvalidInput` with the field `client_certificate` if the chain or the key is invalid, or the key belongs to another certificate.
    pub(crate) fn resolver(
        &self,
        provider: &CryptoProvider,
    ) -> Result<Arc<SingleCertAndKey>, Error> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.chain).collect();
        let chain = found.map_err(|error| {
            Error::invalid(FIELD, "a chain of X.509 certificates in PEM form").with_source(error)
        })?;
        if chain.is_empty() {
            let expected = "a chain of at least one X.509 certificate in PEM form";
            return Err(Error::invalid(FIELD, expected));
        }
        // Without the source, which might quote the key.
        let key = PrivateKeyDer::from_pem_slice(self.key.expose_secret())
            .map_err(|_| Error::invalid(FIELD, "an unencrypted private key in PEM form"))?;
        let pair = CertifiedKey::from_der(chain, key, provider).map_err(|error| {
            let expected = "a certificate with its own private key, of a supported type";
            Error::invalid(FIELD, expected).with_source(error)
        })?;
        Ok(Arc::new(SingleCertAndKey::from(pair)))
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientCertificate(..)")
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn pair() -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["client".to_owned()]).expect("valid");
        let certificate = params.self_signed(&key).expect("signs");
        (certificate.pem(), key.serialize_pem())
    }

    fn check(chain: &str, key: &str) -> Result<(), Error> {
        let provider = rustls::crypto::ring::default_provider();
        let certificate = ClientCertificate::from_pem(chain, key);
        certificate.resolver(&provider).map(drop)
    }

    #[test]
    fn error_for_an_invalid_client_certificate_names_the_field() {
        let ((chain, key), (other_chain, _)) = (pair(), pair());
        check(&chain, &key).expect("a pair");
        let cut = &key[..key.len() / 2];
        for (chain, key) in [
            ("", &*key),
            ("junk", &key),
            (&chain, ""),
            (&chain, cut),
            (&chain, &chain),
            (&other_chain, &key),
        ] {
            let error = check(chain, key).expect_err("rejected");
            assert_eq!(error.field(), Some(FIELD));
            let shown = format!("{error} {error:?}");
            assert!(
                !shown.contains("BEGIN") && !shown.contains(&cut[40..60]),
                "{shown}"
            );
        }
    }

    #[test]
    fn debug_output_of_a_client_certificate_hides_the_private_key() {
        let certificate = ClientCertificate::from_pem("chain-hush", "key-hush");
        assert_eq!(format!("{certificate:?}"), "ClientCertificate(..)");
    }
}
