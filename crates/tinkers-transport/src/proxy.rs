//! The choice of a proxy for each request.

use std::fmt;

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use tinkers_core::{Error, Origin, Sent, TransportError, TransportErrorKind};

/// The configuration of HTTP proxies for a client; no proxies by default. The type does not read the environment itself.
///
/// An HTTP/1.1 request without TLS is sent to the proxy with its absolute URL. All other requests are sent through a `CONNECT` tunnel.
/// Loopback addresses (`localhost`, 127.0.0.0/8, `::1`) are always reached directly.
#[derive(Clone, Default)]
#[must_use]
pub struct ProxyConfig {
    http: Option<Proxy>,
    https: Option<Proxy>,
    no_proxy: Vec<NoProxyEntry>,
}

/// The settings of one proxy, from an environment variable or set by the caller.
#[derive(Clone)]
struct Proxy {
    /// The name of the environment variable, or of the builder field, from which the proxy was set; for error messages.
    variable: String,
    /// The address of the proxy; `None` if the configured value is not the address of an HTTP proxy.
    address: Option<String>,
    /// The scheme in the configured URL of the proxy, such as `socks5`; `None` if the URL has no scheme.
    scheme: Option<String>,
}

/// An entry of `NO_PROXY`, the list of hosts that are reached without a proxy: a host or network as text, and the port if the entry applies
/// to one port only.
#[derive(Clone)]
struct NoProxyEntry {
    host: String,
    port: Option<u16>,
}

/// The name of the field in errors about a proxy that the program has set in the transport builder, not by an environment variable.
const FIELD: &str = "proxy";

impl ProxyConfig {
    /// Creates a configuration without proxies.
    pub fn none() -> Self {
        Self::default()
    }

    /// Creates a configuration that sends all requests through the proxy at `url`, such as `http://user:password@host:3128`. The user name
    /// and the password are sent to the proxy as basic authentication, and do not occur in logs, errors or `Debug` output.
    ///
    /// An invalid URL is an error when the transport is built, with the field `proxy`.
    pub fn all(url: impl AsRef<str>) -> Self {
        Self::none().http(url.as_ref()).https(url)
    }

    /// Sets the proxy for `http` URLs.
    pub fn http(mut self, url: impl AsRef<str>) -> Self {
        self.http = Some(Proxy::new(FIELD.to_owned(), url.as_ref().trim()));
        self
    }

    /// Sets the proxy for `https` URLs.
    pub fn https(mut self, url: impl AsRef<str>) -> Self {
        self.https = Some(Proxy::new(FIELD.to_owned(), url.as_ref().trim()));
        self
    }

    /// Sets the hosts that are reached without a proxy, as a list in the form of [`NO_PROXY`](Self::from_variables).
    pub fn no_proxy(mut self, hosts: impl AsRef<str>) -> Self {
        self.no_proxy = NoProxyEntry::list(hosts.as_ref());
        self
    }

    /// Creates a configuration from environment variables: `HTTP_PROXY` for `http` URLs, `HTTPS_PROXY` for `https` URLs, `ALL_PROXY` for
    /// schemes without a variable of their own, and the exceptions in `NO_PROXY`. `variable` returns the value of an environment variable.
    ///
    /// Lower-case names are preferred. A blank value counts as unset. In a CGI program, where `REQUEST_METHOD` is set, `HTTP_PROXY` is
    /// ignored, since a client of the CGI program can set this variable by the `Proxy` header of a request.
    ///
    /// `NO_PROXY` is a list of hosts that are reached directly, separated by commas or white space. A name matches itself and its
    /// subdomains, with or without a leading `.` or `*.`. An address or a network (`10.0.0.0/8`, `fd00::/8`) matches its addresses, and
    /// `*` matches every host. An entry with a port (`host:8000`, `[::1]:8000`) matches only that port.
    ///
    /// A value that is not the address of an HTTP proxy, such as the address of a SOCKS proxy, is an error only for requests that need this
    /// proxy.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| {
            let value = variable(name)?.trim().to_owned();
            (!value.is_empty()).then(|| (name.to_owned(), value))
        };
        let either = |name: &str| set(&name.to_ascii_lowercase()).or_else(|| set(name));
        let http = match set("REQUEST_METHOD") {
            Some(_) => set("http_proxy"),
            None => either("HTTP_PROXY"),
        };
        let all = either("ALL_PROXY");
        let proxy = |value: Option<(String, String)>| {
            let (variable, value) = value.or_else(|| all.clone())?;
            Some(Proxy::new(variable, &value))
        };
        Self {
            http: proxy(http),
            https: proxy(either("HTTPS_PROXY")),
            no_proxy: match either("NO_PROXY") {
                Some((_, list)) => NoProxyEntry::list(&list),
                None => Vec::new(),
            },
        }
    }

    /// Returns the proxy for `origin`, or `None` if the origin is reached directly.
    ///
    /// # Errors
    /// `Invalid` with the name of the variable if the proxy is unusable.
    pub(crate) fn route(&self, origin: &Origin) -> Result<Option<ProxyRoute>, TransportError> {
        self.find(origin).map_err(|unusable| {
            let message = unusable.to_string();
            TransportError::new(TransportErrorKind::Invalid, Sent::NotSent, message)
        })
    }

    /// Checks that all proxies that the program has set are valid, and that the proxy for `origin` is usable.
    ///
    /// # Errors
    /// `InvalidInput`. The field is `proxy`, or the environment variable that sets the proxy.
    pub(crate) fn check(&self, origin: &Origin) -> Result<(), Error> {
        let mut proxies = [&self.http, &self.https].into_iter().flatten();
        if proxies.any(|proxy| proxy.variable == FIELD && proxy.address.is_none()) {
            let expected = "the address of an HTTP proxy, such as http://host:port";
            return Err(Error::invalid(FIELD, expected));
        }
        match self.find(origin) {
            Ok(_) => Ok(()),
            Err(unusable) => Err(Error::invalid(&unusable.variable, unusable.expected())),
        }
    }

    fn find(&self, origin: &Origin) -> Result<Option<ProxyRoute>, UnusableProxy> {
        let proxy = match origin.scheme() {
            tinkers_core::Scheme::Http => &self.http,
            tinkers_core::Scheme::Https => &self.https,
        };
        let Some(proxy) = proxy.as_ref().filter(|_| !origin.is_loopback()) else {
            return Ok(None);
        };
        // The matcher only decides whether a proxy is needed. It ignores values that it cannot parse, and the request would then
        // bypass the proxy.
        let proxy_url = match &proxy.address {
            Some(address) => address.as_str(),
            None => "http://unusable.invalid",
        };
        let exceptions: Vec<&str> = self
            .no_proxy
            .iter()
            .filter(|entry| entry.port.is_none_or(|port| port == origin.port()))
            .map(|entry| entry.host.as_str())
            .collect();
        // For the matcher, `*` does not include addresses.
        if exceptions.contains(&"*") {
            return Ok(None);
        }
        let matcher = Matcher::builder()
            .all(proxy_url)
            .no(exceptions.join(","))
            .build();
        let destination = format!("{}://{}/", origin.scheme().name(), origin.address());
        let Ok(destination) = destination.parse::<Uri>() else {
            return Ok(None);
        };
        let Some(intercept) = matcher.intercept(&destination) else {
            return Ok(None);
        };
        if proxy.address.is_none() {
            return Err(UnusableProxy {
                variable: proxy.variable.clone(),
                scheme: proxy.scheme.clone(),
                destination: origin.address(),
            });
        }
        Ok(Some(ProxyRoute {
            address: intercept.uri().clone(),
            authorization: intercept.basic_auth().cloned(),
        }))
    }
}

impl Proxy {
    fn new(variable: String, value: &str) -> Self {
        let uri = value.parse::<Uri>().ok();
        let scheme = value
            .split_once("://")
            .map(|(scheme, _)| scheme.to_ascii_lowercase());
        let is_http = scheme.as_deref().is_none_or(|scheme| scheme == "http");
        let has_host = uri
            .as_ref()
            .and_then(Uri::authority)
            .is_some_and(|authority| !authority.host().is_empty());
        let is_name = |scheme: &String| scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
        Self {
            variable,
            address: (is_http && has_host).then(|| value.to_owned()),
            scheme: scheme.filter(is_name),
        }
    }
}

impl NoProxyEntry {
    fn list(text: &str) -> Vec<Self> {
        text.split(|c: char| c == ',' || c.is_whitespace())
            .filter(|entry| !entry.is_empty())
            .map(Self::new)
            .collect()
    }

    fn new(entry: &str) -> Self {
        let (host, port) = match entry
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'))
        {
            // The brackets are followed by a port, or by the prefix length of a network.
            Some((host, rest)) => match rest.strip_prefix(':').and_then(|port| port.parse().ok()) {
                Some(port) => (host.to_owned(), Some(port)),
                None => (format!("{host}{rest}"), None),
            },
            None => match entry.split_once(':') {
                Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                    (host.to_owned(), port.parse().ok())
                }
                _ => (entry.to_owned(), None),
            },
        };
        let host = host.strip_suffix('.').unwrap_or(&host);
        let host = match host.strip_prefix('*') {
            Some(rest) if rest.starts_with('.') => rest,
            _ => host,
        };
        Self {
            host: host.to_owned(),
            port,
        }
    }
}

/// The error of a request that needs a proxy whose configured address is not usable. The error does not contain the value of the variable,
/// since the value may contain a password.
struct UnusableProxy {
    variable: String,
    scheme: Option<String>,
    /// The address of the server that the request would have reached through the proxy.
    destination: String,
}

impl UnusableProxy {
    fn expected(&self) -> String {
        let got = match self.scheme.as_deref() {
            Some("http") | None => "got another value".to_owned(),
            Some(scheme) => format!("got the unsupported scheme {scheme}"),
        };
        format!(
            "the address of an HTTP proxy, such as http://host:port, {got}; set another proxy for {}, or name its host in NO_PROXY",
            self.destination
        )
    }
}

impl fmt::Display for UnusableProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}", self.variable, self.expected())
    }
}

impl fmt::Debug for ProxyConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Only the names of the variables: the values may contain passwords.
        let variable = |proxy: &Option<Proxy>| proxy.as_ref().map(|proxy| proxy.variable.clone());
        f.debug_struct("ProxyConfig")
            .field("http", &variable(&self.http))
            .field("https", &variable(&self.https))
            .finish_non_exhaustive()
    }
}

/// The address and the credentials of the proxy through which a connection is opened.
#[derive(Clone, Debug)]
pub(crate) struct ProxyRoute {
    pub(crate) address: Uri,
    pub(crate) authorization: Option<HeaderValue>,
}

impl ProxyRoute {
    /// Returns the host and port of the proxy, for error messages.
    pub(crate) fn host_and_port(&self) -> String {
        let host = self.address.host().unwrap_or_default();
        format!("{host}:{}", self.address.port_u16().unwrap_or(80))
    }
}

#[cfg(test)]
mod tests {
    use tinkers_core::BaseUrl;

    use super::*;

    fn config(variables: &[(&str, &str)]) -> ProxyConfig {
        ProxyConfig::from_variables(|name| {
            let known = variables.iter().find(|(known, _)| *known == name);
            known.map(|(_, value)| (*value).to_owned())
        })
    }

    fn with_no_proxy(list: &str) -> ProxyConfig {
        config(&[
            ("HTTP_PROXY", "http://plain.proxy:3128"),
            ("HTTPS_PROXY", "http://user:hush@secure.proxy:3129"),
            ("NO_PROXY", list),
        ])
    }

    /// Returns the proxy for `url`.
    fn proxy_for(config: &ProxyConfig, url: &str) -> Option<String> {
        let url = BaseUrl::parse(url).expect("valid");
        let route = config.route(url.origin()).expect("usable");
        route.map(|route| route.host_and_port())
    }

    #[test]
    fn no_proxy_matches_names_subdomains_addresses_and_networks() {
        let no = "example.com, .dotted.org *.starred.net\tends.dev.,10.1.0.0/16, 192.0.2.7,::2,[2001:db8::7],fd00::/8";
        let config = with_no_proxy(no);
        for (url, direct) in [
            ("http://example.com", true),
            ("http://EXAMPLE.com.", true),
            ("https://api.example.com:8443", true),
            ("http://notexample.com", false),
            ("http://example.com.evil.net", false),
            ("http://dotted.org", true),
            ("http://a.dotted.org", true),
            ("http://a.starred.net", true),
            ("http://unstarred.net", false),
            ("http://ends.dev", true),
            ("http://10.1.200.3", true),
            ("http://10.2.0.1", false),
            ("http://192.0.2.7:8000", true),
            ("http://192.0.2.8", false),
            ("http://[::2]", true),
            ("http://[2001:db8::7]:8000", true),
            ("http://[fd12::1]", true),
            ("http://[fe80::1]", false),
            ("http://localhost:1", true),
            ("https://127.0.0.1", true),
            ("http://[::1]:1", true),
        ] {
            assert_eq!(proxy_for(&config, url).is_none(), direct, "{url}");
        }
        for everything in ["*", "a.test, *", "* b.test"] {
            let config = with_no_proxy(everything);
            assert!(proxy_for(&config, "https://anything").is_none());
            assert!(proxy_for(&config, "https://192.0.2.9").is_none());
        }
    }

    #[test]
    fn no_proxy_entry_with_a_port_matches_only_that_port() {
        let config = with_no_proxy("a.test:8000, [2001:db8::7]:8000, 192.0.2.7:8000");
        for host in ["a.test", "b.a.test", "[2001:db8::7]", "192.0.2.7"] {
            for (port, direct) in [(8000, true), (8001, false)] {
                let url = format!("http://{host}:{port}");
                assert_eq!(proxy_for(&config, &url).is_none(), direct, "{url}");
            }
        }
    }

    #[test]
    fn star_in_no_proxy_also_matches_ip_addresses() {
        for url in ["http://192.0.2.7", "http://[2001:db8::7]:8000"] {
            assert!(proxy_for(&with_no_proxy("*"), url).is_none(), "{url}");
        }
    }

    #[test]
    fn all_proxy_variable_applies_to_schemes_without_a_proxy_variable() {
        let both = with_no_proxy("");
        assert_eq!(
            proxy_for(&both, "http://a").as_deref(),
            Some("plain.proxy:3128")
        );
        assert_eq!(
            proxy_for(&both, "https://a").as_deref(),
            Some("secure.proxy:3129")
        );
        let all = config(&[("ALL_PROXY", "p:1"), ("HTTP_PROXY", "q:1")]);
        assert_eq!(proxy_for(&all, "https://a").as_deref(), Some("p:1"));
        assert_eq!(proxy_for(&all, "http://a").as_deref(), Some("q:1"));
    }

    #[test]
    fn lower_case_proxy_variable_is_preferred_unless_blank() {
        for (variables, expected) in [
            (
                &[("https_proxy", "low:1"), ("HTTPS_PROXY", "up:1")][..],
                Some("low:1"),
            ),
            (
                &[("https_proxy", " "), ("HTTPS_PROXY", "up:1")],
                Some("up:1"),
            ),
            (
                &[("https_proxy", ""), ("ALL_PROXY", "all:1")],
                Some("all:1"),
            ),
            (&[("https_proxy", ""), ("ALL_PROXY", " \n")], None),
            (&[("https_proxy", " http://low:1\n")], Some("low:1")),
            (
                &[("all_proxy", "all:1"), ("no_proxy", "a"), ("NO_PROXY", "b")],
                None,
            ),
        ] {
            let found = proxy_for(&config(variables), "https://a");
            assert_eq!(found.as_deref(), expected, "{variables:?}");
        }
    }

    #[test]
    fn http_proxy_variable_is_ignored_in_cgi_programs() {
        let cgi = config(&[("REQUEST_METHOD", "GET"), ("HTTP_PROXY", "evil:1")]);
        assert!(proxy_for(&cgi, "http://a").is_none());
    }

    #[test]
    fn unusable_proxy_is_an_error_only_for_requests_that_need_a_proxy() {
        for value in [
            "socks5://hush:1",
            "socks://hush:1/",
            "socks5h://user:hush@host:1",
            "https://hush:1",
            "http://",
            "hush hush",
            "/hush",
        ] {
            let unusable = config(&[("all_proxy", value), ("NO_PROXY", "direct.test")]);
            for url in [
                "http://127.0.0.1:1",
                "https://localhost",
                "https://direct.test",
            ] {
                assert_eq!(proxy_for(&unusable, url), None, "{value}: {url}");
            }
            let far = BaseUrl::parse("https://far.test").expect("valid");
            let error = unusable.check(far.origin()).expect_err(value);
            assert_eq!(error.field(), Some("all_proxy"), "{value}");
            let late = unusable.route(far.origin()).expect_err(value);
            assert_eq!(
                (late.kind, late.sent),
                (TransportErrorKind::Invalid, Sent::NotSent)
            );
            for text in [error.to_string(), late.to_string(), format!("{unusable:?}")] {
                assert!(!text.contains("hush"), "{text}");
            }
            assert!(late.to_string().contains("all_proxy"), "{late}");
            // The variable of the scheme is preferred.
            let http = config(&[("all_proxy", value), ("http_proxy", "p:1")]);
            assert_eq!(proxy_for(&http, "http://far.test").as_deref(), Some("p:1"));
        }
    }

    #[test]
    fn proxy_is_used_for_urls_of_the_scheme_that_it_was_set_for() {
        let url = "http://user:hush@p.test:3128";
        for (config, http, https) in [
            (ProxyConfig::all(url), true, true),
            (ProxyConfig::none().http(url), true, false),
            (ProxyConfig::none().https(url), false, true),
            (ProxyConfig::all(url).no_proxy("far.test"), false, false),
        ] {
            for (far, is_proxied) in [("http://far.test", http), ("https://far.test", https)] {
                let expected = is_proxied.then_some("p.test:3128");
                assert_eq!(
                    proxy_for(&config, far).as_deref(),
                    expected,
                    "{config:?} {far}"
                );
            }
            assert!(!format!("{config:?}").contains("hush"), "{config:?}");
        }
    }

    #[test]
    fn invalid_proxy_set_by_the_program_is_always_rejected() {
        for value in ["socks5://hush:1", "https://hush:1", "", "hush hush"] {
            let near = BaseUrl::parse("http://127.0.0.1").expect("valid");
            let error = ProxyConfig::none().https(value).check(near.origin());
            let error = error.expect_err(value);
            assert_eq!(error.field(), Some("proxy"));
            assert!(!error.to_string().contains("hush"), "{error}");
        }
    }

    #[test]
    fn proxy_password_is_not_in_debug_output() {
        let config = with_no_proxy("");
        assert!(!format!("{config:?}").contains("hush"), "{config:?}");
        let origin = BaseUrl::parse("https://a").expect("valid");
        let route = config.route(origin.origin()).expect("usable");
        let route = route.expect("a proxy");
        assert_eq!(route.host_and_port(), "secure.proxy:3129");
        assert!(route.authorization.expect("basic").is_sensitive());
    }
}
