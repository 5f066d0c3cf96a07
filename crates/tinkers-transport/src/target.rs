//! Request targets, and the resolution of redirects.

use std::sync::Arc;

use bytes::Bytes;
use http::uri::{self, Authority, PathAndQuery};
use http::{HeaderValue, Uri};
use tinkers_core::{Origin, Scheme};

/// An origin (scheme, host and port), and its forms for the `Host` header and for URIs. These forms are computed once and used by all
/// requests.
pub(crate) struct OriginParts {
    pub(crate) origin: Origin,
    /// The value of the `Host` header.
    pub(crate) host: HeaderValue,
    authority: Authority,
}

impl OriginParts {
    /// Computes the forms of `origin` for the `Host` header and for URIs. Returns `None` if the host is not valid in a request.
    pub(crate) fn new(origin: Origin) -> Option<Arc<Self>> {
        let name = Bytes::from(origin.authority());
        Some(Arc::new(Self {
            host: HeaderValue::from_maybe_shared(name.clone()).ok()?,
            authority: Authority::from_maybe_shared(name).ok()?,
            origin,
        }))
    }
}

/// The target of a request: an origin with a path and a query.
#[derive(Clone)]
pub(crate) struct Target {
    origin_parts: Arc<OriginParts>,
    pub(crate) path: PathAndQuery,
}

impl Target {
    /// Returns the target whose path is `prefix` followed by `path`. Returns `None` if `path` does not start with `/` or is not valid in a
    /// URL.
    pub(crate) fn below(
        origin_parts: &Arc<OriginParts>,
        prefix: &str,
        path: Bytes,
    ) -> Option<Self> {
        if !path.starts_with(b"/") {
            return None;
        }
        let path = if prefix.is_empty() {
            path
        } else {
            [prefix.as_bytes(), &path].concat().into()
        };
        Self::new(Arc::clone(origin_parts), path)
    }

    fn new(origin_parts: Arc<OriginParts>, path: impl Into<Bytes>) -> Option<Self> {
        let path = PathAndQuery::from_maybe_shared(path.into()).ok()?;
        Some(Self { origin_parts, path })
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.origin_parts.origin
    }

    pub(crate) fn host(&self) -> &HeaderValue {
        &self.origin_parts.host
    }

    /// Returns the target as an absolute URI. HTTP/2 and proxies need this form.
    pub(crate) fn absolute(&self) -> Option<Uri> {
        let mut parts = uri::Parts::default();
        parts.scheme = Some(match self.origin().scheme() {
            Scheme::Http => uri::Scheme::HTTP,
            Scheme::Https => uri::Scheme::HTTPS,
        });
        parts.authority = Some(self.origin_parts.authority.clone());
        parts.path_and_query = Some(self.path.clone());
        Uri::from_parts(parts).ok()
    }

    /// Resolves the `Location` header of a redirect against this target, the URL of the request. Returns `None` if the header is not a
    /// valid HTTP URL.
    pub(crate) fn follow(&self, location: &str) -> Option<Self> {
        let location = location
            .split_once('#')
            .map_or(location, |(before, _)| before);
        if location.contains("://") && !location.starts_with('/') {
            let uri: Uri = location.parse().ok()?;
            let origin_parts = OriginParts::new(Origin::of(&uri).ok()?)?;
            let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
            return Self::new(origin_parts, path.to_owned());
        }
        if location.starts_with("//") {
            return self.follow(&format!("{}:{location}", self.origin().scheme().name()));
        }
        if location.starts_with('/') {
            return Self::new(Arc::clone(&self.origin_parts), location.to_owned());
        }
        if location.is_empty() || location.starts_with('?') {
            let path = format!("{}{location}", self.path.path());
            return Self::new(Arc::clone(&self.origin_parts), path);
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
        Self::new(Arc::clone(&self.origin_parts), whole)
    }
}

/// Resolves the segments `.` and `..` in a path, as in RFC 3986, 5.2.4: `/a/../b` becomes `/b`.
fn without_dots(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let mut input = path.split('/').skip(1).peekable();
    while let Some(segment) = input.next() {
        let is_last = input.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    segments.pop();
                }
                if is_last {
                    segments.push("");
                }
            }
            segment => segments.push(segment),
        }
    }
    format!("/{}", segments.join("/"))
}

#[cfg(test)]
mod tests {
    use tinkers_core::BaseUrl;

    use super::*;

    fn below(base: &str, path: &str) -> Option<Target> {
        let base = BaseUrl::parse(base).expect("valid");
        let origin_parts = OriginParts::new(base.origin().clone()).expect("valid");
        Target::below(&origin_parts, base.prefix(), path.to_owned().into())
    }

    #[test]
    fn request_path_is_appended_to_the_base_url_prefix() {
        let url = "https://h/services/p/";
        let target = below(url, "/api/v1/x:y:0/a?b=c").expect("joins");
        assert_eq!(target.path, "/services/p/api/v1/x:y:0/a?b=c");
        assert!(below(url, "api/v1").is_none());
        assert!(below(url, "/a b").is_none());
    }

    #[test]
    fn location_header_is_resolved_against_the_request_url() {
        let here = below("https://h/a", "/b/c?q=1").expect("valid");
        for (location, expected) in [
            ("https://other:8443/x?y=z#frag", "https://other:8443/x?y=z"),
            ("http://h", "http://h/"),
            ("HTTPS://H.:443/x", "https://h/x"),
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
                expected,
                "{location}"
            );
        }
        for location in ["ftp://h/x", "https://", "/a b", "https://h:0/"] {
            assert!(here.follow(location).is_none(), "{location}");
        }
    }
}
