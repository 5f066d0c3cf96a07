//! The server options of commands that need an existing server.

use clap::{Args, ValueEnum};
use tinkers::{BodyFormat, Environment};

use super::{Key, KnownServer};

/// The options that name the server and the API key.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct ConnectionArgs {
    /// The URL of the server [env: TINKER_BASE_URL]
    #[arg(long, value_name = "URL", help_heading = "Server")]
    base_url: Option<String>,
    #[command(flatten)]
    known: KnownServer,
    /// The API key [env: TINKER_API_KEY]
    #[arg(long, value_name = "KEY", help_heading = "Server")]
    pub(crate) api_key: Option<Key>,
    /// The format of training data, for servers that accept only one [default: found out by the client]
    #[arg(long, value_enum, value_name = "FORMAT", help_heading = "Server")]
    pub(crate) body_format: Option<BodyFormatName>,
}

/// The name of a body format of forward-backward passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BodyFormatName {
    // Plain comments, since doc comments on values would switch --help to its long form.
    Protobuf,
    Json,
}

impl From<BodyFormatName> for BodyFormat {
    fn from(name: BodyFormatName) -> Self {
        match name {
            BodyFormatName::Protobuf => Self::Protobuf,
            BodyFormatName::Json => Self::Json,
        }
    }
}

impl ConnectionArgs {
    /// Sets the URL from the other options or the environment if `--base-url` was not given. The API key needs no such step, because the client itself
    /// reads it from the environment.
    pub(super) fn set_base_url(&mut self, environment: &Environment) {
        if self.base_url.is_none() {
            let url = self.known.url().or(environment.base_url());
            self.base_url = url.map(str::to_owned);
        }
    }

    /// Sets the URL like [`ConnectionArgs::set_base_url`], and returns a message for the user if there is none.
    pub(super) fn complete(&mut self, environment: &Environment) -> Result<(), &'static str> {
        self.set_base_url(environment);
        match self.base_url() {
            "" => Err("missing server: set --base-url URL, --hosted, --local or TINKER_BASE_URL"),
            _ => Ok(()),
        }
    }

    /// Returns the URL of the server; empty if none was given.
    pub(crate) fn base_url(&self) -> &str {
        self.base_url.as_deref().unwrap_or_default()
    }
}
