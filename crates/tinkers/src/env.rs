//! The environment, read in one place.
#![expect(
    clippy::disallowed_methods,
    reason = "the one place of the SDK that reads the environment"
)]

use std::env;

use tinkers_transport::{CloudflareAccess, ProxyConfig, ProxyValues};

use crate::Result;

/// What the environment says. An empty variable counts as unset.
#[derive(Clone, Default)]
pub(crate) struct Environment {
    pub(crate) api_key: Option<String>,
    pub(crate) base_url: Option<String>,
    pub(crate) project_id: Option<String>,
    pub(crate) tags: Vec<String>,
    cloudflare: Option<(String, String)>,
    proxies: ProxyValues,
}

impl Environment {
    /// Reads `TINKER_API_KEY`, `TINKER_BASE_URL`, `TINKER_PROJECT_ID`, `TINKER_TAGS`, `CLOUDFLARE_ACCESS_CLIENT_ID` and
    /// `CLOUDFLARE_ACCESS_CLIENT_SECRET`, and the proxy variables in either case.
    pub(crate) fn read() -> Self {
        Self::from_variables(|name| env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| {
            variable(name)
                .map(|value| value.trim().to_owned())
                .filter(|value| !value.is_empty())
        };
        let proxy = |name: &str| set(&name.to_ascii_lowercase()).or_else(|| set(name));
        let mut tags: Vec<String> = Vec::new();
        for tag in set("TINKER_TAGS")
            .unwrap_or_default()
            .split(',')
            .map(str::trim)
            .filter(|tag| !tag.is_empty())
        {
            if !tags.iter().any(|known| known == tag) {
                tags.push(tag.to_owned());
            }
        }
        Self {
            api_key: set("TINKER_API_KEY"),
            base_url: set("TINKER_BASE_URL"),
            project_id: set("TINKER_PROJECT_ID"),
            tags,
            cloudflare: set("CLOUDFLARE_ACCESS_CLIENT_ID")
                .zip(set("CLOUDFLARE_ACCESS_CLIENT_SECRET")),
            proxies: ProxyValues {
                http: proxy("HTTP_PROXY"),
                https: proxy("HTTPS_PROXY"),
                all: proxy("ALL_PROXY"),
                no: proxy("NO_PROXY"),
            },
        }
    }

    pub(crate) fn cloudflare(&self) -> Option<CloudflareAccess> {
        let (id, secret) = self.cloudflare.clone()?;
        Some(CloudflareAccess {
            client_id: id.into(),
            client_secret: secret.into(),
        })
    }

    pub(crate) fn proxies(&self) -> Result<ProxyConfig> {
        ProxyConfig::new(&self.proxies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_variables_count_as_unset_and_tags_are_taken_once() {
        let environment = Environment::from_variables(|name| match name {
            "TINKER_API_KEY" => Some(String::new()),
            "TINKER_BASE_URL" => Some(" http://host ".to_owned()),
            "TINKER_TAGS" => Some("b,a,,b, a".to_owned()),
            _ => None,
        });
        assert_eq!(environment.api_key, None);
        assert_eq!(environment.base_url.as_deref(), Some("http://host"));
        assert_eq!(environment.tags, ["b", "a"]);
    }
}
