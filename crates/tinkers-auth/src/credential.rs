//! The kinds of credentials, and the header in which each kind is sent.

use std::fmt;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use tinkers_core::{Error, Result};
use tinkers_wire::check_api_key;
use zeroize::Zeroizing;

/// The header of API keys and of tokens from an exchange.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// A credential with which a client authenticates itself to a server. `Debug` output does not contain the secret, and the secret is
/// overwritten in memory when the credential is dropped.
#[derive(Clone)]
pub struct Credential {
    pub(crate) secret: SecretString,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An API key or a JWT, sent as `X-API-Key`.
    ApiKey,
    /// A token, sent as `Authorization: Bearer`.
    Bearer,
    /// A value, sent in a header of this name.
    Header(String),
    /// A command whose output is an API key or a JWT.
    Command,
}

impl Credential {
    /// Creates a credential from an API key or a JWT, which is sent in the header `X-API-Key`. The hosted service accepts keys that start
    /// with `tml-`, and JWTs. White space around the key is removed.
    pub fn api_key(key: impl Into<String>) -> Self {
        Self::of(key.into(), Kind::ApiKey)
    }

    /// Creates a credential that is sent as `Authorization: Bearer <token>`, for servers that require it instead of `X-API-Key`.
    pub fn bearer(token: impl Into<String>) -> Self {
        Self::of(token.into(), Kind::Bearer)
    }

    /// Creates a credential that is sent in a header of the given name, for servers behind a gateway with a header of its own.
    pub fn header(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self::of(value.into(), Kind::Header(name.into()))
    }

    /// Creates a credential from a command of the system shell. The command prints an API key or a JWT. Its output is sent in the header
    /// `X-API-Key`. The command runs when the client connects, and again each time a new token is needed.
    pub fn command(command: impl Into<String>) -> Self {
        Self::of(command.into(), Kind::Command)
    }

    fn of(secret: String, kind: Kind) -> Self {
        // The untrimmed text is overwritten.
        let secret = Zeroizing::new(secret);
        Self {
            secret: SecretString::from(secret.trim()),
            kind,
        }
    }

    /// Returns whether the credential is empty: a blank API key counts as none.
    pub fn is_blank(&self) -> bool {
        self.secret.expose_secret().is_empty()
    }

    /// Returns the secret: the key, the token, the value of the header or the text of the command. Do not log it.
    pub fn expose(&self) -> &str {
        self.secret.expose_secret()
    }

    /// Returns whether the credential is a command, which prints the actual credential.
    pub fn is_command(&self) -> bool {
        self.kind == Kind::Command
    }

    /// Returns the header of the credential.
    pub(crate) fn placement(&self) -> Result<Placement> {
        Ok(match &self.kind {
            Kind::ApiKey | Kind::Command => Placement {
                name: API_KEY,
                prefix: "",
            },
            Kind::Bearer => Placement {
                name: AUTHORIZATION,
                prefix: "Bearer ",
            },
            Kind::Header(name) => {
                // The name is not shown, since the caller may have exchanged name and value.
                let name = name.parse().map_err(|_| {
                    Error::invalid("credential", "the name of an HTTP header before the value")
                })?;
                if RESERVED.contains(&name) {
                    let expected = format!("a header that the SDK does not set itself, not {name}");
                    return Err(Error::invalid("credential", expected));
                }
                Placement { name, prefix: "" }
            }
        })
    }

    /// Checks that the credential can be sent in its header.
    ///
    /// # Errors
    /// `InvalidInput` with the field `api_key` for API keys, and `credential` for the other kinds.
    pub fn check(&self) -> Result<()> {
        let placement = self.placement()?;
        if self.kind == Kind::Command {
            return match self.is_blank() {
                true => Err(Error::invalid("credential", "a command that is not empty")),
                false => Ok(()),
            };
        }
        placement.value(&self.secret).map(drop).map_err(|expected| {
            let field = match self.kind {
                Kind::ApiKey => "api_key",
                _ => "credential",
            };
            Error::invalid(field, expected)
        })
    }
}

/// The headers that cannot carry a credential, since they have another meaning.
const RESERVED: &[HeaderName] = &[
    http::header::ACCEPT,
    http::header::ACCEPT_ENCODING,
    http::header::CONNECTION,
    http::header::CONTENT_ENCODING,
    http::header::CONTENT_LENGTH,
    http::header::CONTENT_TYPE,
    http::header::EXPECT,
    http::header::HOST,
    http::header::PROXY_AUTHORIZATION,
    http::header::RANGE,
    http::header::TE,
    http::header::TRAILER,
    http::header::TRANSFER_ENCODING,
    http::header::UPGRADE,
    http::header::USER_AGENT,
];

/// The header of a credential, and the text before the credential in its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) name: HeaderName,
    prefix: &'static str,
}

impl Placement {
    /// Returns the value of the header for `secret`. The value is marked as sensitive, and overwritten in memory when it is dropped.
    ///
    /// # Errors
    /// Returns what is expected of a secret, if `secret` is not valid in a header.
    pub(crate) fn value(&self, secret: &SecretString) -> Result<HeaderValue, &'static str> {
        let secret = secret.expose_secret();
        check_api_key(secret).map_err(|_| VISIBLE)?;
        let text = Zeroizing::new([self.prefix.as_bytes(), secret.as_bytes()].concat());
        let value = HeaderValue::from_maybe_shared(Bytes::from_owner(text));
        let mut value = value.map_err(|_| VISIBLE)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// What is expected of a secret.
const VISIBLE: &str = "visible ASCII characters, without spaces or line breaks";

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::ApiKey => "api_key",
            Kind::Bearer => "bearer",
            Kind::Header(_) => "header",
            Kind::Command => "command",
        };
        write!(f, "Credential::{kind}(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_credential_has_its_own_header() {
        for (credential, name, value) in [
            (Credential::api_key(" tml-hush\n"), "x-api-key", "tml-hush"),
            (Credential::bearer("hush"), "authorization", "Bearer hush"),
            (Credential::header("X-Gate", "hush"), "x-gate", "hush"),
        ] {
            credential.check().expect("valid");
            let placement = credential.placement().expect("valid");
            let header = placement.value(&credential.secret).expect("valid");
            assert_eq!(
                (placement.name.as_str(), header.to_str().ok()),
                (name, Some(value))
            );
            assert!(header.is_sensitive());
            let shown = format!("{credential:?} {header:?}");
            assert!(!shown.contains("hush"), "{shown}");
        }
    }

    #[test]
    fn invalid_credential_is_rejected_without_showing_it() {
        for (credential, field) in [
            (Credential::api_key("tml-hush hush"), "api_key"),
            (Credential::api_key("tml-hush\u{e9}"), "api_key"),
            (Credential::bearer(""), "credential"),
            (Credential::bearer("hush\nhush"), "credential"),
            (Credential::header("hush hush", "x"), "credential"),
            (Credential::header("content-type", "hush"), "credential"),
            (Credential::command(" "), "credential"),
        ] {
            let error = credential.check().expect_err("invalid");
            assert_eq!(error.field(), Some(field), "{error}");
            assert!(!format!("{error} {error:?}").contains("hush"), "{error}");
        }
    }
}
