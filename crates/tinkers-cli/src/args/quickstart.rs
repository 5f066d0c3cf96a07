//! The arguments of `tinkers quickstart`.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::Args;
use clap::error::ErrorKind;

use super::numbers::{integer, learning_rate, positive};
use super::{BUILT_IN_MODEL, ConnectionArgs, usage_error};

/// The arguments of `tinkers quickstart`.
#[derive(Debug, Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "\
Examples:
  tinkers quickstart
  tinkers quickstart --text notes.txt --steps 200
  tinkers quickstart --base-url http://127.0.0.1:8000 --json

Without --base-url and TINKER_BASE_URL, it starts an embedded server, which needs no API key."
)]
pub(crate) struct QuickstartArgs {
    #[command(flatten)]
    pub(super) server: ConnectionArgs,
    /// Where the embedded server stores checkpoints [default: a temporary directory, removed at the end]
    #[arg(long, value_name = "DIR", help_heading = "Server")]
    data_dir: Option<PathBuf>,
    /// The base model
    #[arg(long, value_name = "NAME", default_value = BUILT_IN_MODEL, help_heading = "Model")]
    pub(crate) model: String,
    /// The tokenizer.json of the model; required for any model but the built-in one, whose tokens are bytes
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Rank of the LoRA adapter
    #[arg(long, value_name = "N", default_value = "32", value_parser = positive, help_heading = "Model")]
    pub(crate) rank: NonZeroU32,
    /// A UTF-8 text to train on [default: Newton's Opticks]
    #[arg(long, value_name = "FILE", help_heading = "Training")]
    pub(crate) text: Option<PathBuf>,
    /// Number of optimizer steps
    #[arg(
        long,
        value_name = "N",
        default_value = "100",
        value_parser = positive,
        help_heading = "Training"
    )]
    pub(crate) steps: NonZeroU32,
    /// Sequences per step
    #[arg(long, value_name = "N", default_value = "8", value_parser = positive, help_heading = "Training")]
    pub(crate) batch: NonZeroU32,
    /// Tokens per sequence
    #[arg(
        long,
        value_name = "N",
        default_value = "256",
        value_parser = positive,
        help_heading = "Training"
    )]
    pub(crate) seq_len: NonZeroU32,
    /// Learning rate of the first step; decreases linearly to a tenth by the last step
    #[arg(
        long,
        value_name = "RATE",
        default_value = "0.003",
        allow_hyphen_values = true,
        value_parser = learning_rate,
        help_heading = "Training"
    )]
    pub(crate) learning_rate: f64,
    /// Seed of the adapter, the order of the text, and the samples
    #[arg(long, value_name = "N", default_value = "7", value_parser = integer::<u64>, help_heading = "Training")]
    pub(crate) seed: u64,
    /// Print only one JSON object on stdout; losses are in nats per token
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}

/// The server that the `quickstart` command uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// The embedded server. It stores checkpoints in this directory, or in a temporary directory if the value is `None`.
    Embedded(Option<PathBuf>),
    /// An existing server.
    Remote(ConnectionArgs),
}

impl QuickstartArgs {
    /// Returns the server to use. An empty `--base-url` selects the embedded server, even if the environment variable contains a
    /// URL.
    pub(crate) fn target(&self) -> Target {
        match self.server.base_url() {
            "" => Target::Embedded(self.data_dir.clone()),
            _ => Target::Remote(self.server.clone()),
        }
    }

    pub(super) fn check(&self) -> Result<(), clap::Error> {
        let is_built_in = self.model == BUILT_IN_MODEL;
        if !is_built_in && self.tokenizer.is_none() {
            let message = format!(
                "missing tokenizer of model {}: set --tokenizer FILE to its tokenizer.json",
                self.model
            );
            return Err(usage_error(
                "quickstart",
                ErrorKind::MissingRequiredArgument,
                &message,
            ));
        }
        if is_built_in && self.tokenizer.is_some() {
            let message =
                format!("--tokenizer cannot be used with {BUILT_IN_MODEL}, whose tokens are bytes");
            return Err(usage_error(
                "quickstart",
                ErrorKind::ArgumentConflict,
                &message,
            ));
        }
        match self.target() {
            Target::Embedded(_) if !is_built_in => {
                let message = format!(
                    "the embedded server only has {BUILT_IN_MODEL}: set --base-url URL to a server that has model {}",
                    self.model
                );
                Err(usage_error(
                    "quickstart",
                    ErrorKind::MissingRequiredArgument,
                    &message,
                ))
            }
            Target::Remote(_) if self.data_dir.is_some() => {
                let message = "--data-dir cannot be used with --base-url (or TINKER_BASE_URL): it configures the embedded server";
                Err(usage_error(
                    "quickstart",
                    ErrorKind::ArgumentConflict,
                    message,
                ))
            }
            _ => Ok(()),
        }
    }
}
