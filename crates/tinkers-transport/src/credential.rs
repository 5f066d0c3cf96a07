//! Secret and default headers, which are sent only to the origin of the base URL.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use tinkers_core::Error;
use tinkers_wire::check_api_key;

use crate::redaction::Redactor;

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

/// The secret and default headers, which are sent only to the origin of the base URL: the Cloudflare Access token and the default headers
/// of the builder. Layers above the transport add the credential to each request, as a header that is marked as sensitive.
pub(crate) struct TrustedHeaders {
    fixed: HeaderMap,
    masked: RwLock<Masked>,
}

/// The secrets that are masked in responses and errors.
struct Masked {
    /// The secret values in the headers of the latest requests, the oldest first: the credential, and the current and earlier tokens.
    learned: VecDeque<HeaderValue>,
    redactor: Arc<Redactor>,
}

/// The maximum number of secrets from the headers of requests that are masked. A response in flight may still contain a secret that later
/// requests no longer carry.
const MAX_LEARNED: usize = 8;

impl TrustedHeaders {
    pub(crate) fn new(
        defaults: &HeaderMap,
        cloudflare: Option<&CloudflareAccess>,
    ) -> Result<Self, Error> {
        let mut fixed = HeaderMap::new();
        if let Some(access) = cloudflare {
            let id = secret_value("cloudflare_client_id", &access.client_id)?;
            let secret = secret_value("cloudflare_client_secret", &access.client_secret)?;
            fixed.insert(HeaderName::from_static("cf-access-client-id"), id);
            fixed.insert(HeaderName::from_static("cf-access-client-secret"), secret);
        }
        // Last, so that they replace other headers.
        replace(&mut fixed, defaults);
        let learned = VecDeque::new();
        let redactor = redactor(&fixed, &learned);
        let masked = RwLock::new(Masked { learned, redactor });
        Ok(Self { fixed, masked })
    }

    /// Masks the secret values in `headers`, the headers of a request, from now on. Costs no more than a comparison if they are known.
    pub(crate) fn learn(&self, headers: &HeaderMap) {
        for value in headers.values().filter(|value| value.is_sensitive()) {
            let is_known = |masked: &Masked| masked.learned.contains(value);
            if is_known(&self.masked.read().unwrap_or_else(PoisonError::into_inner)) {
                continue;
            }
            let mut masked = self.masked.write().unwrap_or_else(PoisonError::into_inner);
            if is_known(&masked) {
                continue;
            }
            if masked.learned.len() == MAX_LEARNED {
                masked.learned.pop_front();
            }
            masked.learned.push_back(value.clone());
            masked.redactor = redactor(&self.fixed, &masked.learned);
        }
    }

    /// Returns the redactor, which masks the secrets in these headers and in the headers of requests where they occur in responses and
    /// errors.
    pub(crate) fn redactor(&self) -> Arc<Redactor> {
        let masked = self.masked.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&masked.redactor)
    }

    /// Returns the maximum number of headers that [`add_to`](Self::add_to) adds to a request.
    pub(crate) fn len(&self) -> usize {
        self.fixed.len()
    }

    /// Adds the Cloudflare token and the default headers to the `headers` of a request, in place of headers of the same name. The request
    /// must go to the origin of the base URL, since no other server may receive these headers.
    pub(crate) fn add_to(&self, headers: &mut HeaderMap) {
        replace(headers, &self.fixed);
    }
}

fn redactor(fixed: &HeaderMap, learned: &VecDeque<HeaderValue>) -> Arc<Redactor> {
    let sensitive = fixed.values().filter(|value| value.is_sensitive());
    Arc::new(Redactor::new(sensitive.chain(learned)))
}

impl fmt::Debug for TrustedHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.fixed.keys()).finish()
    }
}

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
    fn cloudflare_headers_are_sensitive_and_not_in_debug_output() {
        let access = CloudflareAccess::new("hush-id", "hush-secret");
        let trusted = TrustedHeaders::new(&HeaderMap::new(), Some(&access)).expect("valid");
        let mut headers = HeaderMap::new();
        trusted.add_to(&mut headers);
        assert_eq!(headers.len(), 2);
        assert!(headers.values().all(HeaderValue::is_sensitive));
        let shown = format!("{trusted:?} {access:?} {headers:?}");
        assert!(!shown.contains("hush"), "{shown}");
        let invalid = CloudflareAccess::new("hush", "hush\n");
        let error = TrustedHeaders::new(&HeaderMap::new(), Some(&invalid)).expect_err("invalid");
        assert_eq!(error.field(), Some("cloudflare_client_secret"));
        assert!(!error.to_string().contains("hush"), "{error}");
    }

    #[test]
    fn secrets_of_earlier_requests_stay_masked() {
        let trusted = TrustedHeaders::new(&HeaderMap::new(), None).expect("valid");
        let header = |secret: &str, is_sensitive: bool| {
            let mut value = HeaderValue::from_str(secret).expect("valid");
            value.set_sensitive(is_sensitive);
            HeaderMap::from_iter([(HeaderName::from_static("authorization"), value)])
        };
        trusted.learn(&header("harmless", false));
        for number in 0..=MAX_LEARNED {
            for _ in 0..2 {
                trusted.learn(&header(&format!("Bearer token-{number}"), true));
            }
        }
        let masked = |text: &str| trusted.redactor().text(text) != text;
        assert!(!masked("harmless"));
        assert!(!masked("token-0"), "only the latest secrets are kept");
        for number in 1..=MAX_LEARNED {
            // Servers echo the token without the scheme.
            assert!(masked(&format!("invalid token: token-{number}")));
        }
    }

    #[test]
    fn default_headers_replace_request_headers_of_the_same_name() {
        let mut defaults = HeaderMap::new();
        defaults.append("x-two", HeaderValue::from_static("1"));
        defaults.append("x-two", HeaderValue::from_static("2"));
        let trusted = TrustedHeaders::new(&defaults, None).expect("valid");
        let mut headers = HeaderMap::new();
        headers.insert("x-two", HeaderValue::from_static("0"));
        trusted.add_to(&mut headers);
        let values: Vec<_> = headers.get_all("x-two").iter().collect();
        assert_eq!(values, ["1", "2"]);
    }
}
