//! Under which key an endpoint is shared: a normal form of the base URL, and a fingerprint of the credential.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::LazyLock;

use http::Uri;
use tinkers_core::Error;

/// A base URL in its normal form: scheme and host in lower case, no default port, no trailing slash, the path kept.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BaseAddress {
    scheme: String,
    host: String,
    port: Option<u16>,
    path: String,
}

impl BaseAddress {
    /// Reads a base URL. Fails with `InvalidInput` on `base_url`, without repeating what was given: it may hold a password.
    pub fn parse(base_url: &str) -> Result<Self, Error> {
        let invalid = |expected: &str| Error::invalid("base_url", expected);
        let base_url = base_url.trim();
        if !base_url.contains("://") {
            return Err(invalid("a URL that opens with http:// or https://"));
        }
        if base_url.contains(['?', '#']) {
            return Err(invalid("a URL without a query and without a fragment"));
        }
        let uri: Uri = base_url
            .parse()
            .map_err(|_| invalid("a URL such as https://host/prefix"))?;
        let scheme = uri.scheme_str().unwrap_or_default().to_ascii_lowercase();
        let default_port = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return Err(invalid("a URL that opens with http:// or https://")),
        };
        let authority = uri
            .authority()
            .filter(|authority| !authority.host().is_empty())
            .ok_or_else(|| invalid("a URL with a host name"))?;
        if authority.as_str().contains('@') {
            return Err(invalid("a URL without a user name or password"));
        }
        let port = authority.port_u16();
        if authority.as_str().len() > authority.host().len() && port.is_none_or(|port| port == 0) {
            return Err(invalid("a URL whose port is a number from 1 to 65535"));
        }
        Ok(Self {
            scheme,
            host: authority.host().to_ascii_lowercase(),
            port: port.filter(|port| *port != default_port),
            path: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// The host name in lower case; an IPv6 address keeps its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether it is the hosted service, of which more is known than it says.
    pub fn is_hosted_service(&self) -> bool {
        ["thinkingmachines.dev", "thinkingmachines.ai"]
            .iter()
            .any(|domain| match self.host.strip_suffix(domain) {
                Some(rest) => rest.is_empty() || rest.ends_with('.'),
                None => false,
            })
    }
}

impl fmt::Display for BaseAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(&self.path)
    }
}

impl fmt::Debug for BaseAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BaseAddress({self})")
    }
}

/// A server and a credential. The credential itself is in here in no form that leads back to it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointKey {
    address: BaseAddress,
    fingerprint: u64,
}

/// Keyed anew in each process, so that a fingerprint says nothing outside it and cannot be searched for.
static FINGERPRINTS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl EndpointKey {
    /// The key of `address` with `credential`; an empty credential is none.
    pub fn new(address: BaseAddress, credential: &[u8]) -> Self {
        Self {
            address,
            fingerprint: FINGERPRINTS.hash_one(credential),
        }
    }

    /// The server.
    pub fn address(&self) -> &BaseAddress {
        &self.address
    }
}

impl fmt::Debug for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointKey")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinkers_core::ErrorKind;

    fn normal(base_url: &str) -> String {
        BaseAddress::parse(base_url)
            .unwrap_or_else(|error| panic!("{base_url}: {error}"))
            .to_string()
    }

    #[test]
    fn case_default_port_and_trailing_slashes_do_not_split_keys() {
        for (given, expected) in [
            ("https://Host.Example", "https://host.example"),
            ("HTTPS://host.example:443", "https://host.example"),
            ("https://host.example/", "https://host.example"),
            (" https://host.example:443/// ", "https://host.example"),
            ("http://host.example:80/a/", "http://host.example/a"),
            ("http://host.example:443", "http://host.example:443"),
            ("https://host.example/Path/B", "https://host.example/Path/B"),
            ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
            ("http://[::1]:9/x//", "http://[::1]:9/x"),
        ] {
            assert_eq!(normal(given), expected, "{given}");
            assert_eq!(normal(expected), expected, "it is normal already");
        }
    }

    #[test]
    fn what_leads_elsewhere_is_another_key() {
        let urls = [
            "http://a.example",
            "https://a.example",
            "http://a.example:8080",
            "http://a.example/x",
            "http://a.example/X",
            "http://b.example",
        ];
        for (i, one) in urls.iter().enumerate() {
            for other in &urls[i + 1..] {
                assert_ne!(normal(one), normal(other));
            }
        }
    }

    #[test]
    fn what_is_no_base_url_is_refused_by_name_and_not_repeated() {
        for given in [
            "",
            "secret.example:8000",
            "ftp://secret.example",
            "https://",
            "https://:80/secret",
            "https://user:secret@host",
            "https://host?key=secret",
            "https://host#secret",
            "https://secret.example:0",
            "https://secret.example:99999",
            "https://sec ret",
        ] {
            let error = BaseAddress::parse(given).expect_err(given);
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{given}");
            assert_eq!(error.field(), Some("base_url"), "{given}");
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }

    #[test]
    fn the_hosted_service_is_known_by_its_whole_domain() {
        for (host, hosted) in [
            (
                "https://tinker.thinkingmachines.dev/services/tinker-prod",
                true,
            ),
            ("https://thinkingmachines.ai", true),
            ("https://TINKER.ThinkingMachines.AI", true),
            ("https://notthinkingmachines.dev", false),
            ("https://thinkingmachines.dev.example", false),
            ("http://127.0.0.1:8000/thinkingmachines.dev", false),
        ] {
            let address = BaseAddress::parse(host).expect(host);
            assert_eq!(address.is_hosted_service(), hosted, "{host}");
        }
    }

    #[test]
    fn a_key_tells_credentials_apart_and_shows_none() {
        let address = BaseAddress::parse("http://host.example").expect("valid");
        let key = |credential: &[u8]| EndpointKey::new(address.clone(), credential);
        assert_eq!(key(b"tml-one"), key(b"tml-one"));
        assert_ne!(key(b"tml-one"), key(b"tml-two"));
        assert_ne!(key(b"tml-one"), key(b""));
        assert_eq!(
            format!("{:?}", key(b"tml-one")),
            "EndpointKey { address: BaseAddress(http://host.example), .. }"
        );
    }
}
