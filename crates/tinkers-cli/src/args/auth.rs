//! The arguments of `tinkers auth`.

use clap::{Args, Subcommand};

use super::{KnownServer, OutputFormat};

/// The arguments of `tinkers auth`.
#[derive(Debug, Args)]
pub(crate) struct AuthArgs {
    #[command(subcommand)]
    pub(crate) command: AuthCommand,
    /// The URL of the server [env: TINKER_BASE_URL] [default: the hosted service]
    #[arg(long, value_name = "URL", global = true, help_heading = "Server")]
    base_url: Option<String>,
    #[command(flatten)]
    known: KnownServer,
}

/// The commands of `tinkers auth`.
#[derive(Debug, Subcommand)]
pub(crate) enum AuthCommand {
    /// Read an API key from the terminal or from stdin, check it, and store it in ~/.tinker/credentials.json
    Login,
    /// Remove the stored API key; a key that a program generated is also revoked on the server
    Logout,
    /// Show whether there is a credential, and whether the server accepts it; exit with 4 or 5 if not
    Status,
    /// Show the user and the organization of the credential
    Whoami {
        /// The format of the output [default: table]
        #[arg(
            short,
            long,
            value_enum,
            conflicts_with = "json",
            help_heading = "Output"
        )]
        format: Option<OutputFormat>,
        /// Print one JSON object, like --format json
        #[arg(long, help_heading = "Output")]
        json: bool,
    },
}

impl AuthArgs {
    /// Returns the URL of the server, or `None` for that of the environment or the hosted service.
    pub(crate) fn base_url(&self) -> Option<&str> {
        self.base_url.as_deref().or(self.known.url())
    }

    /// Returns an error message if several options name a server.
    pub(super) fn check_server(&self) -> Result<(), &'static str> {
        self.known.check(self.base_url.as_deref())
    }

    /// Sets the format of the output, unless the command has its own.
    pub(super) fn set_format(&mut self, given: Option<OutputFormat>) {
        if let AuthCommand::Whoami { format, json } = &mut self.command {
            let json = json.then_some(OutputFormat::Json);
            *format = json.or(*format).or(given);
        }
    }
}
