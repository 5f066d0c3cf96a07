//! The arguments of `tinkers auth`.

use clap::{Args, Subcommand, ValueEnum};

/// The arguments of `tinkers auth`.
#[derive(Debug, Args)]
pub(crate) struct AuthArgs {
    #[command(subcommand)]
    pub(crate) command: AuthCommand,
    /// The URL of the server [env: TINKER_BASE_URL] [default: the hosted service]
    #[arg(long, value_name = "URL", global = true, help_heading = "Server")]
    pub(crate) base_url: Option<String>,
}

/// The commands of `tinkers auth`.
#[derive(Debug, Subcommand)]
pub(crate) enum AuthCommand {
    /// Read an API key from the terminal or from stdin, check it, and store it in ~/.tinker/credentials.json
    Login,
    /// Remove the stored API key; a key that a program generated is also revoked on the server
    Logout,
    /// Show whether there is a credential, and whether the server accepts it; exit with 1 if not
    Status,
    /// Show the user and the organization of the credential
    Whoami {
        /// The format of the output
        #[arg(short, long, value_enum, default_value_t = OutputFormat::Table, help_heading = "Output")]
        format: OutputFormat,
    },
}

/// The format of the output of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    // Plain comments, since doc comments on values would switch --help to its long form.
    // Lines for readers.
    Table,
    // One JSON object.
    Json,
}
