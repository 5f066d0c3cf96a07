//! What can be said of `tinkers doctor`.

use clap::Args;

use super::ConnectionArgs;

/// `tinkers doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tinkers doctor --base-url http://127.0.0.1:8000
  tinkers doctor --base-url http://127.0.0.1:8000 --model Qwen/Qwen3-8B --json

Opens a session and ends it again. With --model it also makes an adapter of rank 1 and sends one pass
through it; the adapter is freed where the server can.")]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    /// Also send a pass through a new adapter over this base model, to see which bodies are taken
    #[arg(long, value_name = "NAME", help_heading = "Server")]
    pub(crate) model: Option<String>,
    /// Print one JSON object on stdout, and nothing else there
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}
