//! Which server a command is for that has none of its own.

use clap::Args;

use super::Key;

/// A server and its key.
#[derive(Debug, Args)]
pub(crate) struct ConnectionArgs {
    /// The server
    #[arg(
        long,
        value_name = "URL",
        env = "TINKER_BASE_URL",
        hide_env_values = true,
        help_heading = "Server"
    )]
    pub(crate) base_url: String,
    /// The server's key
    #[arg(
        long,
        value_name = "KEY",
        env = "TINKER_API_KEY",
        hide_env_values = true,
        help_heading = "Server"
    )]
    pub(crate) api_key: Option<Key>,
}
