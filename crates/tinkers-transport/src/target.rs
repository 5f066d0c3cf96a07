//! One resource of an origin, and where a redirect leads from it.

use http::Uri;
use http::uri::PathAndQuery;
use tinkers_core::{BaseUrl, Origin};

/// One resource: an origin with a path and a query.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) origin: Origin,
    pub(crate) path: PathAndQuery,
}

impl Target {
    /// The target of `path` below `base`; `None` when it does not open with `/` or does not fit into a URL.
    pub(crate) fn below(base: &BaseUrl, path: &str) -> Option<Self> {
        if !path.starts_with('/') {
            return None;
        }
        Self::new(base.origin().clone(), &format!("{}{path}", base.prefix()))
    }

    fn new(origin: Origin, path: &str) -> Option<Self> {
        Some(Self {
            origin,
            path: path.parse().ok()?,
        })
    }

    /// Scheme, authority and path in one, for HTTP/2 and for proxies.
    pub(crate) fn absolute(&self) -> Option<Uri> {
        Uri::builder()
            .scheme(self.origin.scheme().name())
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
            return self.follow(&format!("{}:{location}", self.origin.scheme().name()));
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
    use super::*;

    #[test]
    fn a_path_goes_behind_the_prefix() {
        let url = BaseUrl::parse("https://h/services/p/").expect("valid");
        let target = Target::below(&url, "/api/v1/x:y:0/a?b=c").expect("joins");
        assert_eq!(target.path, "/services/p/api/v1/x:y:0/a?b=c");
        assert!(Target::below(&url, "api/v1").is_none());
        assert!(Target::below(&url, "/a b").is_none());
    }

    #[test]
    fn a_location_is_read_as_the_standard_says() {
        let base = BaseUrl::parse("https://h/a").expect("valid");
        let here = Target::below(&base, "/b/c?q=1").expect("valid");
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
