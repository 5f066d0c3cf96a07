//! The headers that the caller adds to every request.

use std::fmt;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use tinkers_core::{Error, Result};

/// The headers that the program adds to every request. `Debug` does not show the values of these headers.
#[derive(Clone, Default)]
pub(crate) struct DefaultHeaders(Vec<(String, String)>);

/// The headers that a program cannot set, since the SDK sets them itself or they belong to the connection.
const RESERVED: &[&str] = &[
    "accept",
    "accept-encoding",
    "cf-access-client-id",
    "cf-access-client-secret",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-idempotency-key",
    "x-sdk-method",
    "x-stainless-retry-count",
    "x-tinker-create-promise-roundtrip-time",
    "x-tinker-request-iteration",
    "x-tinker-request-type",
    "x-tinker-sampling-backpressure",
];

/// The parts of a header name by which the SDK recognizes a header with a secret value.
const SECRET_NAMES: &[&str] = &["auth", "cookie", "key", "password", "secret", "token"];

impl DefaultHeaders {
    /// Adds a header. A later value replaces an earlier value of the same header.
    pub(crate) fn add(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push((name.into(), value.into()));
    }

    /// Checks the default headers and returns them as a map.
    ///
    /// # Errors
    /// `InvalidInput` for an invalid name or value, and for a name that the SDK sets itself.
    pub(crate) fn parse(&self) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.0 {
            // The text is not shown, since the caller may have exchanged name and value.
            let name: HeaderName = name
                .parse()
                .map_err(|_| Error::invalid("default_headers", "a valid header name"))?;
            let field = format!("default_headers.{name}");
            if let Some(expected) = conflict(&name) {
                return Err(Error::invalid(field, expected));
            }
            let mut value = HeaderValue::from_str(value)
                .map_err(|_| Error::invalid(field, "a value of visible ASCII characters"))?;
            value.set_sensitive(SECRET_NAMES.iter().any(|part| name.as_str().contains(part)));
            headers.insert(name, value);
        }
        Ok(headers)
    }
}

/// Returns the text of the error for a header that the SDK sets itself, with the builder setting to use instead if there is one. `None` for
/// all other headers.
fn conflict(name: &HeaderName) -> Option<&'static str> {
    match name.as_str() {
        "x-api-key" => {
            Some("no header that the SDK sets itself; use the option api_key or credential")
        }
        "user-agent" => {
            Some("no header that the SDK sets itself; use the option user_agent_suffix")
        }
        reserved if RESERVED.contains(&reserved) => Some("no header that the SDK sets itself"),
        _ => None,
    }
}

impl fmt::Debug for DefaultHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without invalid names, which may be values by mistake.
        let names = self.0.iter().filter_map(|(name, _)| name.parse().ok());
        let names: Vec<HeaderName> = names.collect();
        f.debug_list().entries(names).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> DefaultHeaders {
        let mut headers = DefaultHeaders::default();
        pairs
            .iter()
            .for_each(|(name, value)| headers.add(*name, *value));
        headers
    }

    #[test]
    fn error_names_an_invalid_or_reserved_default_header() {
        for (name, value, field) in [
            ("X-API-Key", "hush", "default_headers.x-api-key"),
            ("User-Agent", "hush", "default_headers.user-agent"),
            ("content-type", "hush", "default_headers.content-type"),
            ("x-team", "hush\n", "default_headers.x-team"),
            ("hush hush", "x", "default_headers"),
            ("", "x", "default_headers"),
        ] {
            let error = headers(&[(name, value)]).parse().expect_err(name);
            assert_eq!(error.field(), Some(field));
            assert!(!format!("{error} {error:?}").contains("hush"), "{error}");
        }
    }

    #[test]
    fn later_default_header_replaces_an_earlier_value() {
        let parsed = headers(&[("x-team", "1"), ("X-Team", "2")]).parse();
        let parsed = parsed.expect("valid");
        assert_eq!(
            (parsed.len(), parsed["x-team"].to_str().ok()),
            (1, Some("2"))
        );
    }

    #[test]
    fn default_headers_with_credentials_are_marked_sensitive() {
        for (name, is_sensitive) in [
            ("authorization", true),
            ("x-gateway-token", true),
            ("cookie", true),
            ("x-team", false),
        ] {
            let parsed = headers(&[(name, "value")]).parse().expect("valid");
            assert_eq!(parsed[name].is_sensitive(), is_sensitive, "{name}");
        }
    }

    #[test]
    fn debug_output_of_default_headers_contains_only_names() {
        let headers = headers(&[("x-team", "hush"), ("hush hush", "x")]);
        assert_eq!(format!("{headers:?}"), r#"["x-team"]"#);
    }
}
