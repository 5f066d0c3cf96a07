//! What is sent only to the base URL's own origin: the key, Cloudflare access, the default headers.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use tinkers_core::Error;
use tinkers_wire::check_api_key;

use crate::scrub::Scrubber;

/// What proves who asks.
#[derive(Clone)]
#[non_exhaustive]
pub enum Credential {
    /// A key or token, sent as `X-API-Key`.
    ApiKey(SecretString),
}

impl Credential {
    /// A key or token given as text.
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

/// The service token of a Cloudflare Access application in front of the server.
#[derive(Clone)]
pub struct CloudflareAccess {
    /// Sent as `CF-Access-Client-Id`.
    pub client_id: SecretString,
    /// Sent as `CF-Access-Client-Secret`.
    pub client_secret: SecretString,
}

impl fmt::Debug for CloudflareAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CloudflareAccess(..)")
    }
}

/// Headers for the base URL's origin alone.
pub(crate) struct OwnHeaders {
    fixed: HeaderMap,
    /// Replaced when a token is renewed, while requests run.
    key: RwLock<Key>,
}

struct Key {
    value: Option<HeaderValue>,
    /// Knows this key and the one before it, which requests under way still carry.
    scrubber: Arc<Scrubber>,
}

impl OwnHeaders {
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
        // Last, so that they win over what came from elsewhere.
        replace(&mut fixed, &defaults);
        let value = credential.map(Credential::header).transpose()?;
        let scrubber = scrubber(&fixed, value.iter());
        let key = RwLock::new(Key { value, scrubber });
        Ok(Self { fixed, key })
    }

    pub(crate) fn set_credential(&self, credential: Option<&Credential>) -> Result<(), Error> {
        let value = credential.map(Credential::header).transpose()?;
        let mut key = self.key.write().unwrap_or_else(PoisonError::into_inner);
        let scrubber = scrubber(&self.fixed, key.value.iter().chain(&value));
        *key = Key { value, scrubber };
        Ok(())
    }

    /// What takes the secrets out of answers.
    pub(crate) fn scrubber(&self) -> Arc<Scrubber> {
        let key = self.key.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&key.scrubber)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.fixed.len() + 1
    }

    /// Adds all of them to `headers`, over what is there.
    pub(crate) fn add_to(&self, headers: &mut HeaderMap) {
        let key = self.key.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = &key.value {
            headers.insert(API_KEY, key.clone());
        }
        replace(headers, &self.fixed);
    }
}

fn scrubber<'a>(
    fixed: &'a HeaderMap,
    keys: impl Iterator<Item = &'a HeaderValue>,
) -> Arc<Scrubber> {
    let marked = fixed.values().filter(|value| value.is_sensitive());
    Arc::new(Scrubber::new(marked.chain(keys)))
}

impl fmt::Debug for OwnHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.fixed.keys()).finish()
    }
}

pub(crate) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Puts the values of `from` in the place of those of the same name, all of a repeated one.
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
        .map_err(|_| Error::invalid(field, "text that fits into a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_fits_no_header_is_refused_without_repeating_it() {
        for key in ["", "tml-secret\n", "tml secret", "tml-sécret"] {
            let error = Credential::api_key(key).header().expect_err(key);
            assert_eq!(error.field(), Some("api_key"));
            assert!(!error.to_string().contains("cret"), "{error}");
        }
    }

    #[test]
    fn secrets_are_marked_and_never_shown() {
        let access = CloudflareAccess {
            client_id: SecretString::from("hush-id"),
            client_secret: SecretString::from("hush-secret"),
        };
        let key = Credential::api_key("tml-hush");
        let own = OwnHeaders::new(HeaderMap::new(), Some(&access), Some(&key)).expect("valid");
        let mut headers = HeaderMap::new();
        own.add_to(&mut headers);
        assert_eq!(headers.len(), 3);
        assert_eq!(headers["x-api-key"], "tml-hush");
        assert!(headers.values().all(HeaderValue::is_sensitive));
        let shown = format!("{own:?} {access:?} {key:?} {headers:?}");
        assert!(!shown.contains("hush"), "{shown}");
        own.set_credential(Some(&Credential::api_key("eyJnew")))
            .expect("valid");
        own.add_to(&mut headers);
        assert_eq!(headers["x-api-key"], "eyJnew");
    }

    #[test]
    fn default_headers_win_and_a_repeated_one_stays_repeated() {
        let mut defaults = HeaderMap::new();
        defaults.append("x-two", HeaderValue::from_static("1"));
        defaults.append("x-two", HeaderValue::from_static("2"));
        let own = OwnHeaders::new(defaults, None, None).expect("valid");
        let mut headers = HeaderMap::new();
        headers.insert("x-two", HeaderValue::from_static("0"));
        own.add_to(&mut headers);
        let values: Vec<_> = headers.get_all("x-two").iter().collect();
        assert_eq!(values, ["1", "2"]);
    }
}
