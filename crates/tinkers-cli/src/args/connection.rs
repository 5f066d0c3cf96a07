//! Which server a command is for that has none of its own.

use clap::Args;
use tinkers::Environment;

use super::Key;

/// A server and its key.
#[derive(Debug, Args)]
pub(crate) struct ConnectionArgs {
    /// The server [env: TINKER_BASE_URL]
    #[arg(long, value_name = "URL", help_heading = "Server")]
    base_url: Option<String>,
    /// The server's key [env: TINKER_API_KEY]
    #[arg(long, value_name = "KEY", help_heading = "Server")]
    pub(crate) api_key: Option<Key>,
}

impl ConnectionArgs {
    /// Takes the server from the environment where none was given. The key is read where it is used.
    pub(super) fn complete(&mut self, environment: &Environment) -> Result<(), &'static str> {
        if self.base_url.is_none() {
            self.base_url = environment.base_url().map(str::to_owned);
        }
        match self.base_url() {
            "" => Err("no server is given: name one with --base-url URL or in TINKER_BASE_URL"),
            _ => Ok(()),
        }
    }

    /// The server's address.
    pub(crate) fn base_url(&self) -> &str {
        self.base_url.as_deref().unwrap_or_default()
    }
}
