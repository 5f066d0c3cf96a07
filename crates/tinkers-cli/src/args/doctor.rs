//! Arguments of `tinkers doctor`.

use clap::Args;

use super::ConnectionArgs;

/// The arguments of `tinkers doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tinkers doctor --base-url http://127.0.0.1:8000
  tinkers doctor --base-url http://127.0.0.1:8000 --model Qwen/Qwen3-8B --json

Opens a session and closes it at the end. With --model, it also creates an adapter of rank 1, runs one
pass, and unloads the adapter if the server supports that.")]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    /// Also run a test pass (a forward_backward) on a new adapter of this base model, to find out which request bodies the server
    /// accepts
    #[arg(long, value_name = "NAME", help_heading = "Server")]
    pub(crate) model: Option<String>,
    /// Print only one JSON object on stdout
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}
