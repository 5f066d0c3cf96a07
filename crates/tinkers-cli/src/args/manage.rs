//! The options that all management commands share: the server, the format of the output, and the bounds of lists.

use clap::error::ErrorKind;
use clap::{Args, ValueEnum};
use tinkers::Environment;

use super::numbers::integer;
use super::{Key, KnownServer, usage_error};

/// The default number of items of a list that the server sends in pages.
pub(crate) const PAGED: usize = 20;
/// The default number of rows of the table of a list that the server sends as a whole.
const WHOLE: usize = 100;

/// The format of the output of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    // Plain comments, since doc comments on values would switch --help to its long form.
    // A table or lines, for people.
    Table,
    // One JSON object.
    Json,
    // Comma-separated values with a header.
    Csv,
}

/// The server and output options of the management commands.
#[derive(Debug, Args)]
pub(crate) struct ManageArgs {
    /// The URL of the server [env: TINKER_BASE_URL, only for commands that read] [default: the hosted service]
    #[arg(long, value_name = "URL", global = true, help_heading = "Server")]
    base_url: Option<String>,
    #[command(flatten)]
    known: KnownServer,
    /// The API key [env: TINKER_API_KEY] [default: the key that `tinkers auth login` stored]
    #[arg(long, value_name = "KEY", global = true, help_heading = "Server")]
    pub(crate) api_key: Option<Key>,
    /// The format of the output [default: table]
    #[arg(
        short,
        long,
        value_enum,
        global = true,
        conflicts_with = "json",
        help_heading = "Output"
    )]
    format: Option<OutputFormat>,
    /// Print one JSON object, like --format json
    #[arg(long, global = true, help_heading = "Output")]
    json: bool,
}

/// Whether a command changes something on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The command only reads.
    Reads,
    /// The command changes, publishes or deletes something. The server must be named on the command line.
    Changes,
}

impl ManageArgs {
    /// Returns the format of the output.
    pub(crate) fn format(&self) -> OutputFormat {
        match (self.json, self.format) {
            (true, _) => OutputFormat::Json,
            (false, format) => format.unwrap_or(OutputFormat::Table),
        }
    }

    /// Returns the URL of the server, or `None` for that of the environment or the hosted service.
    pub(crate) fn base_url(&self) -> Option<&str> {
        self.base_url.as_deref().or(self.known.url())
    }

    /// Returns the name of the server for messages.
    pub(crate) fn server_name(&self) -> String {
        let environment = Environment::read();
        match self.base_url().or(environment.base_url()) {
            Some(url) if url != tinkers::HOSTED_SERVICE => crate::address::without_password(url),
            _ => "the hosted service".to_owned(),
        }
    }

    /// Sets the format from an option before the command, and checks the options of the server.
    pub(super) fn complete(
        &mut self,
        command: &str,
        format: Option<OutputFormat>,
        effect: Effect,
    ) -> Result<(), clap::Error> {
        self.format = self.format.or(format);
        if let Err(problem) = self.known.check(self.base_url.as_deref()) {
            return Err(usage_error(command, ErrorKind::ArgumentConflict, problem));
        }
        if effect == Effect::Changes && self.base_url().is_none() {
            let missing = "this command changes data on the server: name the server with --base-url URL, --hosted or --local";
            let kind = ErrorKind::MissingRequiredArgument;
            return Err(usage_error(command, kind, missing));
        }
        Ok(())
    }
}

/// The bounds of a list.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct ListArgs {
    /// The largest number of items to print; 0 for all [default: 20; for models, audit entries, usage and storage 100 in
    /// tables, and all in JSON and CSV]
    #[arg(long, value_name = "N", value_parser = integer::<usize>, allow_hyphen_values = true, help_heading = "List")]
    limit: Option<usize>,
    /// Print all items, however many there are
    #[arg(long, conflicts_with = "limit", help_heading = "List")]
    all: bool,
}

impl ListArgs {
    /// Returns the largest number of items to print, or `None` for all. `default` is the number without an option.
    pub(crate) fn limit(self, default: usize) -> Option<usize> {
        match (self.all, self.limit) {
            (true, _) | (false, Some(0)) => None,
            (false, limit) => Some(limit.unwrap_or(default)),
        }
    }

    /// Returns the largest number of items to print of a list that the server sends as a whole, or `None` for all. Without an option, only
    /// the table has a limit, since programs rely on JSON and CSV to be complete.
    pub(crate) fn limit_of_whole(self, format: OutputFormat) -> Option<usize> {
        match format {
            OutputFormat::Table => self.limit(WHOLE),
            OutputFormat::Json | OutputFormat::Csv => self.limit.filter(|limit| *limit > 0),
        }
    }
}
