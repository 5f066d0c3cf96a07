//! Parsing and normalization of the base URL.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use http::Uri;

use crate::error::Error;

/// The scheme of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_enums, reason = "HTTP has these schemes")]
pub enum Scheme {
    /// `http`: plain TCP.
    Http,
    /// `https`: TLS.
    Https,
}

impl Scheme {
    /// Returns the name of the scheme, as written in a URL.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// Returns the default port of the scheme.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// The origin of a URL: scheme, host and port. The client sends secrets only to the origin of its base URL.
///
/// The host is in lower case and has no trailing dot. An IPv6 address is in its shortest form, in brackets. Therefore, two equal origins
/// always compare equal.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    scheme: Scheme,
    host: String,
    port: u16,
}

impl Origin {
    /// Returns the origin of an absolute URI. A user name or password in the URI is left out.
    ///
    /// # Errors
    /// If the URI has no valid origin, the error is a description of a valid URI.
    pub fn of(uri: &Uri) -> Result<Self, &'static str> {
        let scheme = uri.scheme_str().unwrap_or_default();
        let scheme = [Scheme::Http, Scheme::Https]
            .into_iter()
            .find(|known| scheme.eq_ignore_ascii_case(known.name()))
            .ok_or("a URL that opens with http:// or https://")?;
        let authority = uri.authority().ok_or("a URL with a host name")?.as_str();
        let address = authority.rsplit_once('@').map_or(authority, |(_, at)| at);
        let (host, port) = match address.rfind(']') {
            Some(end) => address.split_at(end + 1),
            None => address.split_at(address.find(':').unwrap_or(address.len())),
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => scheme.default_port(),
            None => return Err("a URL with a host name"),
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|port| *port > 0 && digits.bytes().all(|byte| byte.is_ascii_digit()))
                .ok_or("a URL whose port is a number from 1 to 65535")?,
        };
        let host = normal_host(host).ok_or(
            "a URL with a host name of letters, digits, dots, hyphens and underscores, or an address",
        )?;
        Ok(Self { scheme, host, port })
    }

    /// Returns the scheme.
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Returns the host. An IPv6 address is in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port, even if it is the default port of the scheme.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Returns host and port as in the headers `Host` and `:authority`: without the port if it is the default port of the scheme.
    pub fn authority(&self) -> String {
        if self.port == self.scheme.default_port() {
            self.host.clone()
        } else {
            self.address()
        }
    }

    /// Returns `host:port`, even if the port is the default port of the scheme.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Returns the host. An IPv6 address has no brackets.
    pub fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Returns whether the host is the local machine. A proxy cannot reach such a host.
    pub fn is_loopback(&self) -> bool {
        if self.host == "localhost" || self.host.ends_with(".localhost") {
            return true;
        }
        let address: Result<IpAddr, _> = self.bare_host().parse();
        address.is_ok_and(|address| address.to_canonical().is_loopback())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.name(), self.authority())
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Origin({self})")
    }
}

fn normal_host(host: &str) -> Option<String> {
    if let Some(address) = host.strip_prefix('[') {
        let address: Ipv6Addr = address.strip_suffix(']')?.parse().ok()?;
        return Some(format!("[{address}]"));
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let may_be_in_a_label = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(may_be_in_a_label);
    name.split('.')
        .all(is_label)
        .then(|| name.to_ascii_lowercase())
}

/// A normalized base URL: an origin and a path prefix.
///
/// It has no user name, password, query or fragment, so it may be logged. Formatting and parsing a base URL returns an equal value.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BaseUrl {
    origin: Origin,
    prefix: String,
}

impl BaseUrl {
    /// Parses a base URL. Surrounding spaces and trailing slashes are removed, and the path is kept.
    ///
    /// # Errors
    /// `InvalidInput` with the field `base_url`. The error message does not repeat `text`, which may contain a password.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let invalid = |expected: &str| Error::invalid("base_url", expected);
        let text = text.trim();
        if text.is_empty() {
            return Err(invalid(
                "a URL such as https://host/prefix, got an empty text",
            ));
        }
        if !text.contains("://") {
            return Err(invalid(
                "a URL that opens with http:// or https://, got one without a scheme",
            ));
        }
        if text.contains(['?', '#']) {
            return Err(invalid("a URL without a query and without a fragment"));
        }
        let uri: Uri = text
            .parse()
            .map_err(|_| invalid("a URL such as https://host/prefix"))?;
        if uri
            .authority()
            .is_some_and(|authority| authority.as_str().contains('@'))
        {
            return Err(invalid(
                "a URL without a user name or password; give the key as `api_key`",
            ));
        }
        let origin = Origin::of(&uri).map_err(invalid)?;
        let prefix = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { origin, prefix })
    }

    /// Returns the origin.
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Returns the path prefix. It is empty, or starts with `/` and has no trailing slash.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns whether this is a URL of the hosted Tinker service (thinkingmachines.dev or thinkingmachines.ai). For that service the
    /// client assumes known server properties from the start.
    pub fn is_hosted_service(&self) -> bool {
        ["thinkingmachines.dev", "thinkingmachines.ai"]
            .iter()
            .any(|domain| match self.origin.host.strip_suffix(domain) {
                Some(rest) => rest.is_empty() || rest.ends_with('.'),
                None => false,
            })
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.prefix)
    }
}

impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BaseUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use proptest::prelude::*;

    fn normal(base_url: &str) -> String {
        BaseUrl::parse(base_url)
            .unwrap_or_else(|error| panic!("{base_url}: {error}"))
            .to_string()
    }

    #[test]
    fn equivalent_base_urls_have_the_same_normal_form() {
        for (given, expected) in [
            ("https://Host.Example", "https://host.example"),
            ("HTTPS://host.example:443", "https://host.example"),
            ("https://host.example:0443", "https://host.example"),
            ("https://host.example/", "https://host.example"),
            (" https://host.example:443/// ", "https://host.example"),
            ("https://host.example.", "https://host.example"),
            ("https://host.example.:443/a/", "https://host.example/a"),
            ("http://host.example:80/a/", "http://host.example/a"),
            ("http://host.example:443", "http://host.example:443"),
            ("https://host.example/Path/B", "https://host.example/Path/B"),
            (
                "https://Host.Example/services/tinker-prod",
                "https://host.example/services/tinker-prod",
            ),
            ("http://127.0.0.1:8000///", "http://127.0.0.1:8000"),
            ("http://[::1]:9/x//", "http://[::1]:9/x"),
            ("http://[0:0:0:0:0:0:0:1]:9", "http://[::1]:9"),
            ("http://[2001:DB8:0::00A]", "http://[2001:db8::a]"),
            ("http://[::FFFF:7f00:1]", "http://[::ffff:127.0.0.1]"),
            ("http://under_score.example", "http://under_score.example"),
        ] {
            assert_eq!(normal(given), expected, "{given}");
            assert_eq!(normal(expected), expected, "already normal");
        }
    }

    #[test]
    fn different_base_urls_are_not_equal() {
        let urls = [
            "http://a.example",
            "https://a.example",
            "http://a.example:8080",
            "http://a.example/x",
            "http://a.example/X",
            "http://b.example",
            "http://[::1]",
            "http://[::2]",
        ];
        for (i, one) in urls.iter().enumerate() {
            for other in &urls[i + 1..] {
                assert_ne!(BaseUrl::parse(one).unwrap(), BaseUrl::parse(other).unwrap());
            }
        }
    }

    #[test]
    fn error_for_an_invalid_base_url_does_not_contain_the_url() {
        for given in [
            "",
            " ",
            "localhost:8000",
            "secret.example:8000",
            "host.example/secret",
            "ftp://secret.example",
            "://secret.example",
            "https://",
            "http://:80",
            "https://:80/secret",
            "https:///secret",
            "https://user:secret@host",
            "https://secret@host",
            "https://host?key=secret",
            "https://host/#secret",
            "https://secret.example:0",
            "https://secret.example:99999",
            "https://secret.example:+80",
            "https://secret.example:",
            "https://sec ret",
            "https://.",
            "https://secret..example",
            "https://.secret.example",
            "https://secret.example..",
            "https://sécret.example",
            "https://[secret]",
            "https://[::1",
            "https://[::1]secret",
            "https://[fe80::1%25secret]",
            "https://sec!ret",
        ] {
            let error = BaseUrl::parse(given).expect_err(given);
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{given}");
            assert_eq!(error.field(), Some("base_url"), "{given}");
            assert!(
                !format!("{error} {error:?}").contains("secret"),
                "{error:?}"
            );
        }
    }

    #[test]
    fn hosted_service_is_detected_by_its_domain() {
        for (host, hosted) in [
            (
                "https://tinker.thinkingmachines.dev/services/tinker-prod",
                true,
            ),
            ("https://thinkingmachines.ai", true),
            ("https://TINKER.ThinkingMachines.AI.", true),
            ("https://notthinkingmachines.dev", false),
            ("https://thinkingmachines.dev.example", false),
            ("http://127.0.0.1:8000/thinkingmachines.dev", false),
        ] {
            let address = BaseUrl::parse(host).expect(host);
            assert_eq!(address.is_hosted_service(), hosted, "{host}");
        }
    }

    #[test]
    fn loopback_host_is_detected_by_name_and_address() {
        for (url, loopback) in [
            ("http://localhost", true),
            ("http://LOCALHOST.", true),
            ("http://a.localhost:1", true),
            ("http://127.8.8.8", true),
            ("http://[::1]", true),
            ("http://[::ffff:127.0.0.1]", true),
            ("http://notlocalhost", false),
            ("http://10.0.0.1", false),
        ] {
            let url = BaseUrl::parse(url).expect(url);
            assert_eq!(url.origin().is_loopback(), loopback, "{url}");
        }
    }

    /// Returns a proptest strategy for different spellings of a host, each with its normal form.
    fn spelt_host() -> impl Strategy<Value = (String, String)> {
        let name = "[a-z0-9_-]{1,8}(\\.[a-z0-9_-]{1,8}){0,3}";
        let named = (name, any::<bool>(), any::<bool>()).prop_map(|(name, upper, dot)| {
            let mut given = if upper {
                name.to_ascii_uppercase()
            } else {
                name.clone()
            };
            given.push_str(if dot { "." } else { "" });
            (given, name)
        });
        let numbered = (any::<u128>(), any::<bool>()).prop_map(|(bits, zeros)| {
            let address = Ipv6Addr::from_bits(bits);
            let parts = address.segments().map(|segment| {
                if zeros {
                    format!("{segment:04X}")
                } else {
                    format!("{segment:x}")
                }
            });
            (format!("[{}]", parts.join(":")), format!("[{address}]"))
        });
        prop_oneof![named, numbered]
    }

    proptest! {
        #[test]
        fn any_base_url_text_is_rejected_or_has_a_stable_normal_form(text in "\\PC*|[hH][tT][tT][pP][sS]?://\\PC*|https?://[a-zA-Z0-9._:/@%~!$&'()*+,;=?#\\[\\]\\\\-]{0,40}") {
            if let Ok(url) = BaseUrl::parse(&text) {
                let again = BaseUrl::parse(&url.to_string());
                prop_assert_eq!(again.expect("a valid URL"), url);
            }
        }

        #[test]
        fn all_spellings_of_a_base_url_have_the_same_normal_form(
            (given, host) in spelt_host(),
            https in any::<bool>(),
            shout in any::<bool>(),
            port in proptest::option::of(1..=u16::MAX),
            path in "(/[a-zA-Z0-9._~-]{1,5}){0,3}",
            slashes in "/{0,3}",
            space in " {0,2}",
        ) {
            let scheme = if https { Scheme::Https } else { Scheme::Http };
            let name = if shout { scheme.name().to_ascii_uppercase() } else { scheme.name().to_owned() };
            let shown = port.map(|port| format!(":{port}")).unwrap_or_default();
            let url = BaseUrl::parse(&format!("{space}{name}://{given}{shown}{path}{slashes}{space}"));
            let url = url.expect("a valid URL");
            let kept = port.filter(|port| *port != scheme.default_port());
            let kept = kept.map(|port| format!(":{port}")).unwrap_or_default();
            prop_assert_eq!(url.to_string(), format!("{}://{host}{kept}{path}", scheme.name()));
            prop_assert_eq!(url.origin().port(), port.unwrap_or(scheme.default_port()));
            prop_assert_eq!(url.prefix(), path);
        }
    }
}
