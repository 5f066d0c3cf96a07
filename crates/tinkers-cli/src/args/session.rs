//! The arguments of `tinkers session`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ListArgs, ManageArgs};

/// The arguments of `tinkers session`.
#[derive(Debug, Args)]
pub(crate) struct SessionArgs {
    #[command(subcommand)]
    pub(crate) command: SessionCommand,
    #[command(flatten)]
    pub(crate) manage: ManageArgs,
}

/// The commands of `tinkers session`.
#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// List your sessions, the newest first
    List {
        #[command(flatten)]
        list: ListArgs,
    },
    /// Describe a session: its training runs and samplers
    Info {
        /// The id of the session
        session_id: String,
    },
    /// Export the trace of a session, to open in https://ui.perfetto.dev
    #[command(
        visible_alias = "export-trace",
        after_help = "\
Waits until the server has built the trace, for at most 10 minutes. Its signed address is valid for about an
hour and needs no API key: treat it as a secret."
    )]
    Trace {
        /// The id of the session
        session_id: String,
        /// The file to write [default: ./ID.pftrace]
        #[arg(short, long, value_name = "FILE", conflicts_with = "url_only")]
        output: Option<PathBuf>,
        /// Print the signed address of the trace, and do not download it
        #[arg(long)]
        url_only: bool,
    },
}
