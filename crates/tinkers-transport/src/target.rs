//! One resource of an origin, and where a redirect leads from it.

use std::sync::Arc;

use bytes::Bytes;
use http::uri::{self, Authority, PathAndQuery};
use http::{HeaderValue, Uri};
use tinkers_core::{Origin, Scheme};

/// An origin in the forms in which requests name it, made once.
pub(crate) struct Place {
    pub(crate) origin: Origin,
    /// As `Host` wants it.
    pub(crate) host: HeaderValue,
    authority: Authority,
}

impl Place {
    /// `None` when its name does not fit into a request.
    pub(crate) fn new(origin: Origin) -> Option<Arc<Self>> {
        let name = Bytes::from(origin.authority());
        Some(Arc::new(Self {
            host: HeaderValue::from_maybe_shared(name.clone()).ok()?,
            authority: Authority::from_maybe_shared(name).ok()?,
            origin,
        }))
    }
}

/// One resource: an origin with a path and a query.
#[derive(Clone)]
pub(crate) struct Target {
    place: Arc<Place>,
    pub(crate) path: PathAndQuery,
}

impl Target {
    /// The target of `path` below `prefix` at `place`; `None` when it does not open with `/` or does not fit into a URL.
    pub(crate) fn below(place: &Arc<Place>, prefix: &str, path: Bytes) -> Option<Self> {
        if !path.starts_with(b"/") {
            return None;
        }
        let path = if prefix.is_empty() {
            path
        } else {
            [prefix.as_bytes(), &path].concat().into()
        };
        Self::new(Arc::clone(place), path)
    }

    fn new(place: Arc<Place>, path: impl Into<Bytes>) -> Option<Self> {
        let path = PathAndQuery::from_maybe_shared(path.into()).ok()?;
        Some(Self { place, path })
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.place.origin
    }

    pub(crate) fn host(&self) -> &HeaderValue {
        &self.place.host
    }

    /// Scheme, authority and path in one, for HTTP/2 and for proxies.
    pub(crate) fn absolute(&self) -> Option<Uri> {
        let mut parts = uri::Parts::default();
        parts.scheme = Some(match self.origin().scheme() {
            Scheme::Http => uri::Scheme::HTTP,
            Scheme::Https => uri::Scheme::HTTPS,
        });
        parts.authority = Some(self.place.authority.clone());
        parts.path_and_query = Some(self.path.clone());
        Uri::from_parts(parts).ok()
    }

    /// Where a `Location` on this resource's answer leads; `None` when it cannot be read.
    pub(crate) fn follow(&self, location: &str) -> Option<Self> {
        let location = location
            .split_once('#')
            .map_or(location, |(before, _)| before);
        if location.contains("://") && !location.starts_with('/') {
            let uri: Uri = location.parse().ok()?;
            let place = Place::new(Origin::of(&uri).ok()?)?;
            let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
            return Self::new(place, path.to_owned());
        }
        if location.starts_with("//") {
            return self.follow(&format!("{}:{location}", self.origin().scheme().name()));
        }
        if location.starts_with('/') {
            return Self::new(Arc::clone(&self.place), location.to_owned());
        }
        if location.is_empty() || location.starts_with('?') {
            let path = format!("{}{location}", self.path.path());
            return Self::new(Arc::clone(&self.place), path);
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
        Self::new(Arc::clone(&self.place), whole)
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
    use tinkers_core::BaseUrl;

    use super::*;

    fn below(base: &str, path: &str) -> Option<Target> {
        let base = BaseUrl::parse(base).expect("valid");
        let place = Place::new(base.origin().clone()).expect("valid");
        Target::below(&place, base.prefix(), path.to_owned().into())
    }

    #[test]
    fn a_path_goes_behind_the_prefix() {
        let url = "https://h/services/p/";
        let target = below(url, "/api/v1/x:y:0/a?b=c").expect("joins");
        assert_eq!(target.path, "/services/p/api/v1/x:y:0/a?b=c");
        assert!(below(url, "api/v1").is_none());
        assert!(below(url, "/a b").is_none());
    }

    #[test]
    fn a_location_is_read_as_the_standard_says() {
        let here = below("https://h/a", "/b/c?q=1").expect("valid");
        for (location, leads) in [
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
                leads,
                "{location}"
            );
        }
        for location in ["ftp://h/x", "https://", "/a b", "https://h:0/"] {
            assert!(here.follow(location).is_none(), "{location}");
        }
    }
}
