//! Where requests go: the base URL, origins, and where a redirect leads.

use std::fmt;

use http::Uri;
use http::uri::PathAndQuery;
use tinkers_core::Error;

/// The address that every path is appended to: scheme, host, port and a path prefix.
///
/// It has no user name, password, query or fragment, so it is safe to show.
#[derive(Clone, PartialEq, Eq)]
pub struct BaseUrl {
    origin: Origin,
    prefix: String,
}

impl BaseUrl {
    /// Reads a base URL. Trailing slashes are removed, a path prefix is kept.
    ///
    /// Fails with `InvalidInput` that names `base_url`, without repeating what was given: it may hold a password.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let invalid = |expected: &str| Error::invalid("base_url", expected);
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

    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The target of `path`, which opens with `/` and may hold a query.
    pub(crate) fn join(&self, path: &str) -> Option<Target> {
        if !path.starts_with('/') {
            return None;
        }
        Target::new(self.origin.clone(), &format!("{}{path}", self.prefix))
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

/// How bytes travel to an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Scheme, host and port: what decides whether a secret may be sent.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) scheme: Scheme,
    /// Lower case; an IPv6 address keeps its brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Origin {
    fn of(uri: &Uri) -> Result<Self, &'static str> {
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            _ => return Err("a URL that opens with http:// or https://"),
        };
        let authority = uri.authority().ok_or("a URL with a host name")?;
        let host = authority.host().to_ascii_lowercase();
        if host.is_empty() {
            return Err("a URL with a host name");
        }
        let address = authority
            .as_str()
            .rsplit_once('@')
            .map_or(authority.as_str(), |(_, at)| at);
        let port = match (address.len() > host.len(), authority.port_u16()) {
            (false, _) => scheme.default_port(),
            (true, Some(port)) if port > 0 => port,
            _ => return Err("a URL whose port is a number from 1 to 65535"),
        };
        Ok(Self { scheme, host, port })
    }

    /// Host and port, as `Host` and `:authority` want them: without the scheme's own port.
    pub(crate) fn authority(&self) -> String {
        if self.port == self.scheme.default_port() {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Host and port, always both: for messages and for dialling.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Whether it is this machine by name or number, which no proxy can reach.
    pub(crate) fn is_loopback(&self) -> bool {
        if self.host == "localhost" || self.host.ends_with(".localhost") {
            return true;
        }
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        bare.parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback())
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

/// One resource: an origin with a path and a query.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) origin: Origin,
    pub(crate) path: PathAndQuery,
}

impl Target {
    fn new(origin: Origin, path: &str) -> Option<Self> {
        Some(Self {
            origin,
            path: path.parse().ok()?,
        })
    }

    /// Scheme, authority and path in one, for HTTP/2 and for proxies.
    pub(crate) fn absolute(&self) -> Option<Uri> {
        Uri::builder()
            .scheme(self.origin.scheme.name())
            .authority(self.origin.authority())
            .path_and_query(self.path.clone())
            .build()
            .ok()
    }

    /// Where a `Location` on this resource's answer leads; `None` when it cannot be read.
    pub(crate) fn follow(&self, location: &str) -> Option<Self> {
        let location = location
            .split_once('#')
            .map_or(location, |(before, _)| before);
        if location.contains("://") && !location.starts_with('/') {
            let uri: Uri = location.parse().ok()?;
            let origin = Origin::of(&uri).ok()?;
            return Self::new(
                origin,
                uri.path_and_query().map_or("/", PathAndQuery::as_str),
            );
        }
        if location.starts_with("//") {
            return self.follow(&format!("{}:{location}", self.origin.scheme.name()));
        }
        if location.starts_with('/') {
            return Self::new(self.origin.clone(), location);
        }
        if location.is_empty() || location.starts_with('?') {
            return Self::new(
                self.origin.clone(),
                &format!("{}{location}", self.path.path()),
            );
        }
        let (path, query) = location
            .split_once('?')
            .map_or((location, None), |(p, q)| (p, Some(q)));
        let folder = self
            .path
            .path()
            .rsplit_once('/')
            .map_or("", |(folder, _)| folder);
        let mut whole = without_dots(&format!("{folder}/{path}"));
        if let Some(query) = query {
            whole.push('?');
            whole.push_str(query);
        }
        Self::new(self.origin.clone(), &whole)
    }
}

/// Resolves `.` and `..` (RFC 3986, 5.2.4).
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut pieces = path.split('/').skip(1).peekable();
    while let Some(piece) = pieces.next() {
        let last = pieces.peek().is_none();
        match piece {
            "." | ".." => {
                if piece == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            piece => kept.push(piece),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use tinkers_core::ErrorKind;

    use super::*;

    #[test]
    fn a_base_url_keeps_its_prefix_and_loses_its_trailing_slashes() {
        for (given, shown) in [
            (
                "https://Host.Example/services/tinker-prod",
                "https://host.example/services/tinker-prod",
            ),
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
            ("http://127.0.0.1:8000///", "http://127.0.0.1:8000"),
            ("https://host:443/a/", "https://host/a"),
            ("http://[::1]:9/x//", "http://[::1]:9/x"),
            ("http://under_score.example", "http://under_score.example"),
        ] {
            let url = BaseUrl::parse(given).unwrap_or_else(|error| panic!("{given}: {error}"));
            assert_eq!(url.to_string(), shown, "{given}");
        }
        let url = BaseUrl::parse("https://h/services/p/").expect("valid");
        let target = url.join("/api/v1/x:y:0/a?b=c").expect("joins");
        assert_eq!(target.path, "/services/p/api/v1/x:y:0/a?b=c");
        assert!(url.join("api/v1").is_none());
        assert!(url.join("/a b").is_none());
    }

    #[test]
    fn a_bad_base_url_is_refused_by_name_and_without_repeating_it() {
        for given in [
            "",
            "localhost:8000",
            "host.example/secret",
            "ftp://host/secret",
            "https://",
            "http://:80",
            "https:///secret",
            "https://user:secret@host",
            "https://host?key=secret",
            "https://host/#secret",
            "https://host:0",
            "https://host:99999/secret",
            "https://host:/secret",
            "https://ho st/secret",
        ] {
            let error = BaseUrl::parse(given).expect_err(given);
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{given}");
            assert_eq!(error.field(), Some("base_url"), "{given}");
            assert!(
                !format!("{error} {error:?}").contains("secret"),
                "{given}: {error}"
            );
        }
    }

    #[test]
    fn a_location_is_read_as_the_standard_says() {
        let here = Target::new(
            Origin {
                scheme: Scheme::Https,
                host: "h".to_owned(),
                port: 443,
            },
            "/a/b/c?q=1",
        )
        .expect("valid");
        for (location, leads) in [
            ("https://other:8443/x?y=z#frag", "https://other:8443/x?y=z"),
            ("http://h", "http://h/"),
            ("//other/x", "https://other/x"),
            ("/x", "https://h/x"),
            ("/x?to=http://y/", "https://h/x?to=http://y/"),
            ("d", "https://h/a/b/d"),
            ("../d?e", "https://h/a/d?e"),
            ("../../../d/.", "https://h/d/"),
            ("?r=2", "https://h/a/b/c?r=2"),
        ] {
            let target = here
                .follow(location)
                .unwrap_or_else(|| panic!("{location}"));
            assert_eq!(
                target.absolute().expect("a URI").to_string(),
                leads,
                "{location}"
            );
        }
        for location in ["ftp://h/x", "https://", "/a b", "https://h:0/"] {
            assert!(here.follow(location).is_none(), "{location}");
        }
    }

    #[test]
    fn loopback_is_known_by_name_and_number() {
        for (url, loopback) in [
            ("http://localhost", true),
            ("http://a.localhost:1", true),
            ("http://127.8.8.8", true),
            ("http://[::1]", true),
            ("http://[::ffff:127.0.0.1]", true),
            ("http://notlocalhost", false),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(
                BaseUrl::parse(url).expect(url).origin().is_loopback(),
                loopback,
                "{url}"
            );
        }
    }
}
