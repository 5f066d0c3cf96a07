//! The environment variables that configure clients and the command-line program.
#![expect(
    clippy::disallowed_methods,
    reason = "the only place that reads the environment"
)]

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use tinkers_auth::{Credential, CredentialStore, Sources};
use tinkers_core::{Error, Result};
use tinkers_transport::{CloudflareAccess, ProxyConfig, RootFiles};

/// The settings of a client in the environment variables of the process.
///
/// [`ServiceClientBuilder`](crate::ServiceClientBuilder) uses these settings unless the program sets others. Use this type to show or check
/// these settings. Values are trimmed, and blank values count as unset. An invalid value is an error only when the value is used.
///
/// ```
/// let environment = tinkers::Environment::read();
/// if environment.api_key().is_none() {
///     eprintln!("set TINKER_API_KEY");
/// }
/// println!("server: {}", environment.base_url().unwrap_or("the hosted service"));
/// ```
#[derive(Clone, Default)]
pub struct Environment {
    api_key: Option<String>,
    credential_command: Option<String>,
    home: Option<PathBuf>,
    base_url: Option<String>,
    log: Option<String>,
    pub(crate) project_id: Option<String>,
    pub(crate) tags: Vec<String>,
    telemetry: Option<String>,
    cloudflare: [Option<String>; 2],
    pub(crate) proxies: ProxyConfig,
    pub(crate) roots: RootFiles,
}

const API_KEY: &str = tinkers_auth::API_KEY_VARIABLE;
pub(crate) const BASE_URL: &str = "TINKER_BASE_URL";
const CLOUDFLARE: [&str; 2] = [
    "CLOUDFLARE_ACCESS_CLIENT_ID",
    "CLOUDFLARE_ACCESS_CLIENT_SECRET",
];

impl Environment {
    /// Reads the environment variables of this process:
    ///
    /// | variable | meaning |
    /// |---|---|
    /// | `TINKER_API_KEY` | the API key, or a JWT |
    /// | `TINKER_CREDENTIAL_CMD` | a command of the system shell that prints an API key or a JWT; used if there is no API key |
    /// | `TINKER_BASE_URL` | the base URL of the server |
    /// | `TINKER_PROJECT_ID`, `TINKER_TAGS` | the project of sessions, and their tags, separated by commas |
    /// | `TINKER_TELEMETRY` | whether sessions report telemetry events: `1`, `true`, `yes` or `on`; any other value turns it off |
    /// | `TINKER_LOG` | the log filter of the commands |
    /// | `CLOUDFLARE_ACCESS_CLIENT_ID`, `CLOUDFLARE_ACCESS_CLIENT_SECRET` | the service token for Cloudflare Access; set both or neither |
    /// | `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY` | proxies, in upper or lower case: see [`ProxyConfig::from_variables`] |
    /// | `SSL_CERT_FILE`, `SSL_CERT_DIR` | root certificates that replace those of the system: see [`RootFiles::from_variables`] |
    ///
    /// The key that `tinkers auth login` or `tinker auth login` has stored is in the home directory, in `.tinker/credentials.json`. It is
    /// read when it is needed.
    ///
    /// Invalid Unicode in a value is replaced, so that the value is rejected when it is used.
    pub fn read() -> Self {
        Self {
            home: env::home_dir(),
            ..Self::from_variables(|name| env::var_os(name))
        }
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| {
            let value = variable(name)?;
            let value = value.to_string_lossy().trim().to_owned();
            (!value.is_empty()).then_some(value)
        };
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
            api_key: set(API_KEY),
            credential_command: set(tinkers_auth::CREDENTIAL_COMMAND_VARIABLE),
            home: None,
            base_url: set(BASE_URL),
            log: set("TINKER_LOG"),
            project_id: set("TINKER_PROJECT_ID"),
            tags,
            telemetry: set("TINKER_TELEMETRY"),
            cloudflare: CLOUDFLARE.map(set),
            proxies: ProxyConfig::from_variables(set),
            roots: RootFiles::from_variables(&variable),
        }
    }

    /// Returns the API key, the value of `TINKER_API_KEY`.
    pub fn api_key(&self) -> Option<&str> {
        self.api_key.as_deref()
    }

    /// Returns the command that prints a credential, the value of `TINKER_CREDENTIAL_CMD`.
    pub fn credential_command(&self) -> Option<&str> {
        self.credential_command.as_deref()
    }

    /// Returns the file in which `tinkers auth login` stores API keys. Returns `None` if the user has no home directory.
    pub fn credential_store(&self) -> Option<CredentialStore> {
        self.home.as_deref().map(CredentialStore::in_home)
    }

    /// Returns the places in which a credential is looked up. `given` is the credential that the program has set.
    pub(crate) fn sources(&self, given: Option<Credential>) -> Sources {
        let mut sources = Sources::default();
        sources.given = given;
        sources.api_key = self.api_key().map(Credential::api_key);
        sources.command = self.credential_command().map(Credential::command);
        sources.store = self.credential_store();
        sources
    }

    /// Returns the base URL of the server, the value of `TINKER_BASE_URL`.
    pub fn base_url(&self) -> Option<&str> {
        self.base_url.as_deref()
    }

    /// Returns the log filter for the command-line program `tinkers`, the value of `TINKER_LOG`.
    pub fn log(&self) -> Option<&str> {
        self.log.as_deref()
    }

    /// Returns whether sessions report telemetry events, as `TINKER_TELEMETRY` says. They do if the variable is unset, as in the Python SDK.
    pub fn telemetry(&self) -> bool {
        let on = |value: &String| {
            let value = value.to_ascii_lowercase();
            matches!(value.as_str(), "1" | "true" | "yes" | "on")
        };
        self.telemetry.as_ref().is_none_or(on)
    }

    /// Returns the service token for Cloudflare Access, if it is set.
    ///
    /// # Errors
    /// `InvalidInput` if only one of the two variables of the token is set. The field of the error is the name of the missing variable.
    pub(crate) fn cloudflare(&self) -> Result<Option<CloudflareAccess>> {
        match self.cloudflare.clone() {
            [Some(id), Some(secret)] => Ok(Some(CloudflareAccess::new(id, secret))),
            [None, None] => Ok(None),
            [id, _] => {
                let [id_name, secret_name] = CLOUDFLARE;
                let (missing, other) = match id {
                    None => (id_name, secret_name),
                    Some(_) => (secret_name, id_name),
                };
                let expected = format!("a value, since {other} is set; set both or neither");
                Err(Error::invalid(missing, expected))
            }
        }
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without keys, and without URLs, which may contain a password.
        f.debug_struct("Environment")
            .field("api_key", &self.api_key.as_ref().map(|_| ".."))
            .field(
                "credential_command",
                &self.credential_command.as_ref().map(|_| ".."),
            )
            .field("tags", &self.tags)
            .field("proxies", &self.proxies)
            .field("roots", &self.roots)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Environment {
        Environment::from_variables(|name| {
            let known = variables.iter().find(|(known, _)| *known == name);
            known.map(|(_, value)| value.into())
        })
    }

    #[test]
    fn variables_are_trimmed_and_blank_ones_count_as_unset() {
        let environment = of(&[
            ("TINKER_API_KEY", " \n"),
            ("TINKER_BASE_URL", " http://host\n"),
            ("TINKER_LOG", ""),
            ("TINKER_PROJECT_ID", " p-1 "),
            ("TINKER_TAGS", "b,a,,b, a"),
            ("CLOUDFLARE_ACCESS_CLIENT_ID", ""),
        ]);
        assert_eq!(environment.api_key, None);
        assert_eq!(environment.base_url(), Some("http://host"));
        assert_eq!(environment.log(), None);
        assert_eq!(environment.project_id.as_deref(), Some("p-1"));
        assert_eq!(environment.tags, ["b", "a"]);
        assert!(environment.cloudflare().expect("unset").is_none());
    }

    #[test]
    fn telemetry_is_on_unless_the_variable_turns_it_off() {
        assert!(of(&[]).telemetry());
        for (value, expected) in [
            ("1", true),
            ("YES", true),
            ("on", true),
            ("0", false),
            ("false", false),
            ("x", false),
        ] {
            let environment = of(&[("TINKER_TELEMETRY", value)]);
            assert_eq!(environment.telemetry(), expected, "{value}");
        }
    }

    #[test]
    fn white_space_around_the_api_key_variable_is_removed() {
        let environment = of(&[("TINKER_API_KEY", "tml-x\r\n")]);
        assert_eq!(environment.api_key.as_deref(), Some("tml-x"));
    }

    #[test]
    fn incomplete_cloudflare_token_error_names_the_missing_variable() {
        let [id, secret] = CLOUDFLARE;
        for (set, missing) in [(id, secret), (secret, id)] {
            let error = of(&[(set, "hush")]).cloudflare().expect_err("half");
            assert_eq!(error.field(), Some(missing));
            assert!(!error.to_string().contains("hush"), "{error}");
        }
    }

    #[test]
    fn debug_output_of_environment_contains_no_secrets() {
        let environment = of(&[
            ("TINKER_API_KEY", "tml-hush"),
            ("TINKER_CREDENTIAL_CMD", "echo tml-hush"),
            ("TINKER_BASE_URL", "http://me:hush@h"),
            ("CLOUDFLARE_ACCESS_CLIENT_SECRET", "hush"),
            ("HTTPS_PROXY", "http://me:hush@h:1"),
        ]);
        assert!(!format!("{environment:?}").contains("hush"));
    }
}
