//! Removal of credentials from server URLs.

use crate::output::one_line;

/// Removes `user:password@`, the query and the fragment from a URL, so that it can be displayed.
pub(crate) fn without_password(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let url = one_line(&url[..end]).into_owned();
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.rsplit('@').next().unwrap_or_default().to_owned();
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_removed_from_urls() {
        for (url, shown) in [
            ("http://h:1/a", "http://h:1/a"),
            ("https://me:secret@h/a@b?key=secret", "https://h/a@b"),
            ("me:secret@h", "h"),
            ("h#secret", "h"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }
}
