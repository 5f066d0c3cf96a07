//! Which requests go through a proxy, from values that the caller read from its environment.

use std::fmt;
use std::sync::Arc;

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use tinkers_core::{Error, Origin};

/// The proxies of a client. The default has none; nothing is read from the environment here.
///
/// Plain HTTP/1.1 goes to a proxy in absolute form, all else through a `CONNECT` tunnel. This machine itself (`localhost`,
/// 127.0.0.0/8, `::1`) is never asked for through a proxy.
#[derive(Clone)]
pub struct ProxyConfig {
    matcher: Arc<Matcher>,
}

/// The values that a [`ProxyConfig`] is made of, each as its environment variable has it; empty counts as unset.
#[derive(Clone, Default)]
pub struct ProxyValues {
    /// `HTTP_PROXY`: for `http` URLs.
    pub http: Option<String>,
    /// `HTTPS_PROXY`: for `https` URLs.
    pub https: Option<String>,
    /// `ALL_PROXY`: for either, where its own is unset.
    pub all: Option<String>,
    /// `NO_PROXY`: hosts to reach directly, separated by commas. A name stands for itself and its subdomains, addresses
    /// and networks (`10.0.0.0/8`) for themselves, `*` for everything.
    pub no: Option<String>,
}

impl ProxyConfig {
    /// No proxy for anything.
    pub fn none() -> Self {
        Self {
            matcher: Arc::new(Matcher::builder().build()),
        }
    }

    /// Reads the values. Fails with `InvalidInput` that names the value (`http_proxy`, `https_proxy`, `all_proxy`) when it
    /// is no `http://host:port` address; its text is not repeated, since it may hold a password.
    pub fn new(values: &ProxyValues) -> Result<Self, Error> {
        let mut builder = Matcher::builder().no(values.no.clone().unwrap_or_default());
        if let Some(proxy) = checked("all_proxy", values.all.as_deref())? {
            builder = builder.all(proxy);
        }
        if let Some(proxy) = checked("http_proxy", values.http.as_deref())? {
            builder = builder.http(proxy);
        }
        if let Some(proxy) = checked("https_proxy", values.https.as_deref())? {
            builder = builder.https(proxy);
        }
        Ok(Self {
            matcher: Arc::new(builder.build()),
        })
    }

    /// The proxy for `url`, without its password: for showing what will happen.
    pub fn proxy_for(&self, url: &str) -> Option<String> {
        let target = tinkers_core::BaseUrl::parse(url).ok()?;
        Some(self.route(target.origin())?.address.to_string())
    }

    pub(crate) fn route(&self, origin: &Origin) -> Option<ProxyRoute> {
        if origin.is_loopback() {
            return None;
        }
        let destination: Uri = format!("{}://{}/", origin.scheme().name(), origin.address())
            .parse()
            .ok()?;
        let intercept = self.matcher.intercept(&destination)?;
        Some(ProxyRoute {
            address: intercept.uri().clone(),
            authorization: intercept.basic_auth().cloned(),
        })
    }
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self::none()
    }
}

impl fmt::Debug for ProxyConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The matcher shows addresses and leaves credentials out.
        self.matcher.fmt(f)
    }
}

impl fmt::Debug for ProxyValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyValues")
            .field("http", &self.http.is_some())
            .field("https", &self.https.is_some())
            .field("all", &self.all.is_some())
            .field("no", &self.no)
            .finish()
    }
}

/// The way through one proxy.
#[derive(Clone, Debug)]
pub(crate) struct ProxyRoute {
    pub(crate) address: Uri,
    pub(crate) authorization: Option<HeaderValue>,
}

impl ProxyRoute {
    /// Host and port, for messages.
    pub(crate) fn place(&self) -> String {
        let host = self.address.host().unwrap_or_default();
        format!("{host}:{}", self.address.port_u16().unwrap_or(80))
    }
}

/// The matcher ignores what it cannot read, which would send in the open what was meant for a proxy.
fn checked<'a>(field: &str, value: Option<&'a str>) -> Result<Option<&'a str>, Error> {
    let Some(value) = value.map(str::trim).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let invalid = || {
        Error::invalid(
            field,
            "an address such as http://host:port (socks and https proxies are not supported)",
        )
    };
    let uri: Uri = value.parse().map_err(|_| invalid())?;
    let authority = uri.authority().ok_or_else(invalid)?;
    let host = authority.host();
    let known = matches!(uri.scheme_str(), None | Some("http"));
    if !known || host.is_empty() {
        return Err(invalid());
    }
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(no: &str) -> ProxyConfig {
        ProxyConfig::new(&ProxyValues {
            http: Some("http://plain.proxy:3128".to_owned()),
            https: Some("http://user:hush@secure.proxy:3129".to_owned()),
            all: None,
            no: Some(no.to_owned()),
        })
        .expect("valid")
    }

    #[test]
    fn no_proxy_matches_names_subdomains_addresses_and_networks() {
        let no = "example.com, .dotted.org,10.1.0.0/16, 192.0.2.7,::2";
        for (url, direct) in [
            ("http://example.com", true),
            ("https://api.example.com:8443", true),
            ("http://notexample.com", false),
            ("http://example.com.evil.net", false),
            ("http://dotted.org", true),
            ("http://a.dotted.org", true),
            ("http://10.1.200.3", true),
            ("http://10.2.0.1", false),
            ("http://192.0.2.7:8000", true),
            ("http://192.0.2.8", false),
            ("http://[::2]", true),
            ("http://localhost:1", true),
            ("https://127.0.0.1", true),
            ("http://[::1]:1", true),
        ] {
            assert_eq!(config(no).proxy_for(url).is_none(), direct, "{url}");
        }
        assert!(config("*").proxy_for("https://anything").is_none());
    }

    #[test]
    fn each_scheme_has_its_proxy_and_all_stands_in() {
        let both = config("");
        assert_eq!(
            both.proxy_for("http://a").as_deref(),
            Some("http://plain.proxy:3128/")
        );
        assert_eq!(
            both.proxy_for("https://a").as_deref(),
            Some("http://secure.proxy:3129/")
        );
        let all = ProxyConfig::new(&ProxyValues {
            all: Some("p:1".to_owned()),
            ..ProxyValues::default()
        })
        .expect("valid");
        assert_eq!(all.proxy_for("https://a").as_deref(), Some("http://p:1/"));
        let none = ProxyConfig::new(&ProxyValues {
            all: Some(" ".to_owned()),
            ..ProxyValues::default()
        });
        assert!(
            none.expect("empty is unset")
                .proxy_for("https://a")
                .is_none()
        );
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_refused_by_name() {
        for value in [
            "socks5://hush:1",
            "https://hush:1",
            "http://",
            "hush hush",
            "/hush",
        ] {
            let values = ProxyValues {
                https: Some(value.to_owned()),
                ..ProxyValues::default()
            };
            let error = ProxyConfig::new(&values).expect_err(value);
            assert_eq!(error.field(), Some("https_proxy"), "{value}");
            assert!(!error.to_string().contains("hush"), "{error}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let config = config("");
        assert!(!format!("{config:?}").contains("hush"), "{config:?}");
        let origin = tinkers_core::BaseUrl::parse("https://a").expect("valid");
        let route = config.route(origin.origin()).expect("a proxy");
        assert_eq!(route.place(), "secure.proxy:3129");
        assert!(route.authorization.expect("basic").is_sensitive());
    }
}
