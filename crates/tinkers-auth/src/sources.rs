//! The places in which a credential is looked up, in the order of the official SDK.

use secrecy::ExposeSecret;
use tinkers_core::{BaseUrl, Error, ErrorKind, Result, Sent};

use crate::claims::Claims;
use crate::credential::{Credential, Kind};
use crate::store::CredentialStore;

/// The environment variable with the API key or a JWT.
pub const API_KEY_VARIABLE: &str = "TINKER_API_KEY";
/// The environment variable with a command that prints a credential.
pub const CREDENTIAL_COMMAND_VARIABLE: &str = "TINKER_CREDENTIAL_CMD";

/// The places in which a credential is looked up.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Sources {
    /// The credential that the program has set. A blank one suppresses `TINKER_API_KEY`.
    pub given: Option<Credential>,
    /// The value of `TINKER_API_KEY`.
    pub api_key: Option<Credential>,
    /// The value of `TINKER_CREDENTIAL_CMD`.
    pub command: Option<Credential>,
    /// The file of `tinker auth login`.
    pub store: Option<CredentialStore>,
}

/// The credential that was found, and where.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Resolved {
    /// The credential; `None` for a server that needs none.
    pub credential: Option<Credential>,
    /// The name of the source, for errors, such as `TINKER_API_KEY`.
    pub source: &'static str,
}

impl Sources {
    /// Looks up the credential for the server at `address`.
    ///
    /// 1. A JWT that the program has set, or in `TINKER_API_KEY`.
    /// 2. With `from_command`, which a server demands by its configuration: the credential command, and nothing else.
    /// 3. The credential that the program has set, otherwise `TINKER_API_KEY`. If the hosted service cannot accept it because of its form,
    ///    the credential command, if there is one.
    /// 4. The credential command.
    /// 5. The stored key, if it belongs to this server.
    ///
    /// # Errors
    /// `InvalidInput` for a credential in an invalid form. `Authentication` if there is none and the server is the hosted service, or if
    /// `from_command` is set and there is no command. The errors of [`CredentialStore::load`].
    pub fn resolve(&self, address: &BaseUrl, from_command: bool) -> Result<Resolved> {
        let (key, source) = match &self.given {
            Some(given) if given.kind == Kind::Command => (None, "credential"),
            Some(given) => (Some(given), "api_key"),
            None => (self.api_key.as_ref(), API_KEY_VARIABLE),
        };
        let key = key.filter(|key| !key.is_blank() || key.kind != Kind::ApiKey);
        let given_command = self
            .given
            .as_ref()
            .filter(|given| given.kind == Kind::Command);
        let command = given_command
            .or(self.command.as_ref())
            .filter(|command| !command.is_blank());
        let by_command = |command: &Credential| Resolved {
            credential: Some(command.clone()),
            source: match given_command {
                Some(_) => "the credential command",
                None => CREDENTIAL_COMMAND_VARIABLE,
            },
        };
        let found = |key: &Credential| Resolved {
            credential: Some(key.clone()),
            source,
        };
        if let Some(token) = key.filter(|key| is_token(key)) {
            token.check().map_err(|error| named(source, error))?;
            return Ok(found(token));
        }
        match (from_command, command) {
            (true, Some(command)) => return Ok(by_command(command)),
            (true, None) => {
                let message = "the server requires a credential from a command; set TINKER_CREDENTIAL_CMD to a command that prints one";
                return Err(authentication(message));
            }
            (false, _) => {}
        }
        if let Some(key) = key {
            return match (check_form(key, address), command) {
                (Ok(()), _) => Ok(found(key)),
                (Err(_), Some(command)) => Ok(by_command(command)),
                (Err(error), None) => Err(named(source, error)),
            };
        }
        if let Some(command) = command {
            return Ok(by_command(command));
        }
        if let Some(given) = given_command {
            given.check()?;
        }
        let is_suppressed = self.given.is_some();
        if let Some(store) = self.store.as_ref().filter(|_| !is_suppressed)
            && let Some(stored) = store.load()?.default_key_for(address)
        {
            let stored = stored.credential();
            check_form(&stored, address)
                .map_err(|error| error.with_context(store.path().display()))?;
            return Ok(Resolved {
                credential: Some(stored),
                source: "the stored credential",
            });
        }
        if address.is_hosted_service() {
            let message = "no API key: set TINKER_API_KEY or `api_key`, log in with `tinkers auth login`, or use the base URL of a server \
                           without keys";
            return Err(authentication(message).with_field("api_key"));
        }
        Ok(Resolved {
            credential: None,
            source,
        })
    }

    /// Returns whether there is a credential for the server at `address`, without running a command.
    ///
    /// # Errors
    /// The errors of [`resolve`](Self::resolve), except that no credential is no error.
    pub fn has_credential(&self, address: &BaseUrl) -> Result<bool> {
        match self.resolve(address, false) {
            Ok(resolved) => Ok(resolved.credential.is_some()),
            Err(error) if error.kind() == ErrorKind::Authentication => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn is_token(credential: &Credential) -> bool {
    credential.kind == Kind::ApiKey && Claims::is_token(credential.secret.expose_secret())
}

/// Checks the form of a credential. API keys of the hosted service start with `tml-`. Other servers may accept any API key, and most need
/// no API key.
fn check_form(credential: &Credential, address: &BaseUrl) -> Result<()> {
    credential.check()?;
    let key = credential.secret.expose_secret();
    if credential.kind == Kind::ApiKey && address.is_hosted_service() && !key.starts_with("tml-") {
        // Without the value, which may be another secret.
        let expected = "a key of the hosted service, which starts with tml-, or a JWT";
        return Err(Error::invalid("api_key", expected));
    }
    Ok(())
}

/// Adds the environment variable from which an invalid credential was read to the message of `error`.
fn named(source: &'static str, error: Error) -> Error {
    match source {
        API_KEY_VARIABLE => error.with_context(source),
        _ => error,
    }
}

fn authentication(message: &str) -> Error {
    Error::new(ErrorKind::Authentication, Sent::NotSent, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{StoredCredentials, StoredKey};

    fn hosted() -> BaseUrl {
        BaseUrl::parse("https://tinker.thinkingmachines.dev/services/tinker-prod").expect("valid")
    }

    fn other() -> BaseUrl {
        BaseUrl::parse("http://127.0.0.1:1").expect("valid")
    }

    fn secret(resolved: &Resolved) -> &str {
        let credential = resolved.credential.as_ref().expect("a credential");
        credential.secret.expose_secret()
    }

    #[test]
    fn credentials_are_resolved_in_the_official_order() {
        let home = tempfile::tempdir().expect("a directory");
        let store = CredentialStore::in_home(home.path());
        let mut stored = StoredCredentials::default();
        stored.add_default(
            "1",
            StoredKey::manual(&Credential::api_key("tml-stored"), "n"),
        );
        store.save(&stored).expect("written");
        let mut sources = Sources {
            given: Some(Credential::api_key("tml-given")),
            api_key: Some(Credential::api_key("tml-variable")),
            command: Some(Credential::command("echo tml-command")),
            store: Some(store),
        };
        let resolve = |sources: &Sources| {
            let resolved = sources.resolve(&hosted(), false).expect("valid");
            (secret(&resolved).to_owned(), resolved.source)
        };
        assert_eq!(resolve(&sources), ("tml-given".to_owned(), "api_key"));
        // A key that the hosted service cannot accept leaves the choice to the command.
        sources.given = Some(Credential::api_key("sk-other"));
        assert_eq!(resolve(&sources).1, CREDENTIAL_COMMAND_VARIABLE);
        sources.given = None;
        assert_eq!(
            resolve(&sources),
            ("tml-variable".to_owned(), API_KEY_VARIABLE)
        );
        sources.api_key = None;
        assert_eq!(
            resolve(&sources),
            ("echo tml-command".to_owned(), CREDENTIAL_COMMAND_VARIABLE)
        );
        sources.command = None;
        assert_eq!(
            resolve(&sources),
            ("tml-stored".to_owned(), "the stored credential")
        );
        assert!(sources.has_credential(&hosted()).expect("valid"));
        sources.store = None;
        let error = sources.resolve(&hosted(), false).expect_err("none");
        assert_eq!(error.kind(), ErrorKind::Authentication);
        assert!(!sources.has_credential(&hosted()).expect("valid"));
        let none = sources
            .resolve(&other(), false)
            .expect("other servers need none");
        assert!(none.credential.is_none());
    }

    #[test]
    fn enforced_command_yields_to_a_token_only() {
        let mut sources = Sources {
            api_key: Some(Credential::api_key("tml-variable")),
            ..Sources::default()
        };
        let error = sources.resolve(&hosted(), true).expect_err("no command");
        assert_eq!(error.kind(), ErrorKind::Authentication);
        assert!(
            error.to_string().contains(CREDENTIAL_COMMAND_VARIABLE),
            "{error}"
        );
        sources.command = Some(Credential::command("echo tml-command"));
        let resolved = sources.resolve(&hosted(), true).expect("the command");
        assert_eq!(resolved.source, CREDENTIAL_COMMAND_VARIABLE);
        sources.api_key = Some(Credential::api_key("eyJtoken"));
        let resolved = sources.resolve(&hosted(), true).expect("the token");
        assert_eq!(secret(&resolved), "eyJtoken");
    }

    #[test]
    fn only_the_hosted_service_requires_api_keys_of_its_form() {
        let sources = Sources {
            api_key: Some(Credential::api_key("sk-12345")),
            ..Sources::default()
        };
        assert!(sources.resolve(&other(), false).is_ok());
        let error = sources.resolve(&hosted(), false).expect_err("another form");
        assert_eq!(error.field(), Some("api_key"));
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(API_KEY_VARIABLE), "{shown}");
        assert!(!shown.contains("sk-12345"), "{shown}");
        let bearer = Sources {
            given: Some(Credential::bearer("sk-12345")),
            ..Sources::default()
        };
        assert!(bearer.resolve(&hosted(), false).is_ok());
    }

    #[test]
    fn blank_key_of_the_program_suppresses_the_variable() {
        let sources = Sources {
            given: Some(Credential::api_key(" ")),
            api_key: Some(Credential::api_key("tml-variable")),
            ..Sources::default()
        };
        let resolved = sources.resolve(&other(), false).expect("valid");
        assert!(resolved.credential.is_none());
    }
}
