//! The arguments of `tinkers model`.

use clap::{Args, Subcommand};

use super::{ListArgs, ManageArgs};

/// The arguments of `tinkers model`.
#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    #[command(subcommand)]
    pub(crate) command: ModelCommand,
    #[command(flatten)]
    pub(crate) manage: ManageArgs,
}

/// The commands of `tinkers model`.
#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// List the base models of a server
    #[command(after_help = "\
Examples:
  tinkers model list
  tinkers model list qwen --local")]
    List {
        /// Part of the name, in any case of letters
        #[arg(value_name = "SUBSTRING")]
        name: Option<String>,
        #[command(flatten)]
        list: ListArgs,
    },
}
