//! Credentials and other headers that are sent only to the origin of the base URL.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use tinkers_core::Error;
use tinkers_wire::check_api_key;

use crate::redaction::Redactor;

/// A credential with which the client authenticates itself to the server.
#[derive(Clone)]
#[non_exhaustive]
pub enum Credential {
    /// An API key or token, sent as `X-API-Key`.
    ApiKey(SecretString),
}

impl Credential {
    /// Creates a credential from an API key or token.
    pub fn api_key(key: impl Into<String>) -> Self {
        Self::ApiKey(SecretString::from(key.into()))
    }

    pub(crate) fn header(&self) -> Result<HeaderValue, Error> {
        let Self::ApiKey(key) = self;
        secret_value("api_key", key)
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential::ApiKey(..)")
    }
}

/// A service token for Cloudflare Access in front of the server.
#[derive(Clone)]
#[non_exhaustive]
pub struct CloudflareAccess {
    /// The id of the token, sent as `CF-Access-Client-Id`.
    pub client_id: SecretString,
    /// The secret of the token, sent as `CF-Access-Client-Secret`.
    pub client_secret: SecretString,
}

impl CloudflareAccess {
    /// Creates a service token from its id and its secret.
    pub fn new(client_id: impl Into<String>, client_secret: impl Into<String>) -> Self {
        Self {
            client_id: SecretString::from(client_id.into()),
            client_secret: SecretString::from(client_secret.into()),
        }
    }
}

impl fmt::Debug for CloudflareAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CloudflareAccess(..)")
    }
}

/// The secret and default headers, which are sent only to the origin of the base URL: the API key, the Cloudflare Access token, and the
/// default headers of the builder.
pub(crate) struct TrustedHeaders {
    fixed: HeaderMap,
    /// The header with the API key. The API key may be replaced while requests are in flight.
    key: RwLock<Key>,
}

struct Key {
    value: Option<HeaderValue>,
    /// The redactor that masks the current API key and the previous one in responses and errors. Requests in flight may still carry the
    /// previous API key.
    redactor: Arc<Redactor>,
}

impl TrustedHeaders {
    pub(crate) fn new(
        defaults: HeaderMap,
        cloudflare: Option<&CloudflareAccess>,
        credential: Option<&Credential>,
    ) -> Result<Self, Error> {
        let mut fixed = HeaderMap::new();
        if let Some(access) = cloudflare {
            let id = secret_value("cloudflare_client_id", &access.client_id)?;
            let secret = secret_value("cloudflare_client_secret", &access.client_secret)?;
            fixed.insert(HeaderName::from_static("cf-access-client-id"), id);
            fixed.insert(HeaderName::from_static("cf-access-client-secret"), secret);
        }
        // Last, so that they replace other headers.
        replace(&mut fixed, &defaults);
        let value = credential.map(Credential::header).transpose()?;
        let redactor = redactor(&fixed, value.iter());
        let key = RwLock::new(Key { value, redactor });
        Ok(Self { fixed, key })
    }

    pub(crate) fn set_credential(&self, credential: Option<&Credential>) -> Result<(), Error> {
        let value = credential.map(Credential::header).transpose()?;
        let mut key = self.key.write().unwrap_or_else(PoisonError::into_inner);
        let redactor = redactor(&self.fixed, key.value.iter().chain(&value));
        *key = Key { value, redactor };
        Ok(())
    }

    /// Returns the redactor, which masks the secrets in these headers where they occur in responses and errors.
    pub(crate) fn redactor(&self) -> Arc<Redactor> {
        let key = self.key.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&key.redactor)
    }

    /// Returns the maximum number of headers that [`add_to`](Self::add_to) adds to a request.
    pub(crate) fn len(&self) -> usize {
        self.fixed.len() + 1
    }

    /// Adds the API key, the Cloudflare token and the default headers to the `headers` of a request, in place of headers of the same name.
    /// The request must go to the origin of the base URL, since no other server may receive these headers.
    pub(crate) fn add_to(&self, headers: &mut HeaderMap) {
        let key = self.key.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = &key.value {
            headers.insert(API_KEY, key.clone());
        }
        replace(headers, &self.fixed);
    }
}

fn redactor<'a>(
    fixed: &'a HeaderMap,
    keys: impl Iterator<Item = &'a HeaderValue>,
) -> Arc<Redactor> {
    let sensitive = fixed.values().filter(|value| value.is_sensitive());
    Arc::new(Redactor::new(sensitive.chain(keys)))
}

impl fmt::Debug for TrustedHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.fixed.keys()).finish()
    }
}

pub(crate) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Inserts the headers in `from` into `headers`, in place of headers of the same name. All values of a name are replaced.
pub(crate) fn replace(headers: &mut HeaderMap, from: &HeaderMap) {
    for name in from.keys() {
        headers.remove(name);
        for value in from.get_all(name) {
            headers.append(name.clone(), value.clone());
        }
    }
}

fn secret_value(field: &str, secret: &SecretString) -> Result<HeaderValue, Error> {
    let text = secret.expose_secret();
    check_api_key(text).map_err(|error| Error::invalid(field, error.expected()))?;
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| Error::invalid(field, "text that is valid in a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_api_key_is_rejected_without_showing_it() {
        for key in ["", "tml-secret\n", "tml secret", "tml-sécret"] {
            let error = Credential::api_key(key).header().expect_err(key);
            assert_eq!(error.field(), Some("api_key"));
            assert!(!error.to_string().contains("cret"), "{error}");
        }
    }

    #[test]
    fn credential_headers_are_sensitive_and_not_in_debug_output() {
        let access = CloudflareAccess::new("hush-id", "hush-secret");
        let key = Credential::api_key("tml-hush");
        let trusted =
            TrustedHeaders::new(HeaderMap::new(), Some(&access), Some(&key)).expect("valid");
        let mut headers = HeaderMap::new();
        trusted.add_to(&mut headers);
        assert_eq!(headers.len(), 3);
        assert_eq!(headers["x-api-key"], "tml-hush");
        assert!(headers.values().all(HeaderValue::is_sensitive));
        let shown = format!("{trusted:?} {access:?} {key:?} {headers:?}");
        assert!(!shown.contains("hush"), "{shown}");
        trusted
            .set_credential(Some(&Credential::api_key("eyJnew")))
            .expect("valid");
        trusted.add_to(&mut headers);
        assert_eq!(headers["x-api-key"], "eyJnew");
    }

    #[test]
    fn default_headers_replace_request_headers_of_the_same_name() {
        let mut defaults = HeaderMap::new();
        defaults.append("x-two", HeaderValue::from_static("1"));
        defaults.append("x-two", HeaderValue::from_static("2"));
        let trusted = TrustedHeaders::new(defaults, None, None).expect("valid");
        let mut headers = HeaderMap::new();
        headers.insert("x-two", HeaderValue::from_static("0"));
        trusted.add_to(&mut headers);
        let values: Vec<_> = headers.get_all("x-two").iter().collect();
        assert_eq!(values, ["1", "2"]);
    }
}
