//! The management commands.

use clap::Subcommand;

use super::account::{AuditArgs, BillingArgs, BillingCommand, StorageArgs, UsageArgs};
use super::checkpoint::CheckpointArgs;
use super::manage::{Effect, OutputFormat};
use super::model::ModelArgs;
use super::run::RunArgs;
use super::session::SessionArgs;

/// The commands that manage what is stored on a server.
#[derive(Debug, Subcommand)]
pub(crate) enum ManageCommand {
    /// List the base models of a server
    Model(ModelArgs),
    /// List and describe training runs
    Run(RunArgs),
    /// List, describe, publish, expire and delete checkpoints
    Checkpoint(CheckpointArgs),
    /// List and describe sessions, and export their traces
    Session(SessionArgs),
    /// Show the usage of a period, per hour, with costs
    Usage(UsageArgs),
    /// Show the storage that checkpoints take now, with costs
    Storage(StorageArgs),
    /// Show the audit log of a day
    Audit(AuditArgs),
    /// Usage and storage, by their names in the official program
    Billing(BillingArgs),
}

impl ManageCommand {
    /// Sets the format of the output, unless the command has its own, and checks the arguments.
    pub(super) fn complete(&mut self, format: Option<OutputFormat>) -> Result<(), clap::Error> {
        let (name, effect, manage) = match self {
            Self::Model(args) => ("model", Effect::Reads, &mut args.manage),
            Self::Run(args) => ("run", Effect::Reads, &mut args.manage),
            Self::Checkpoint(args) => {
                args.check()?;
                let (effect, name) = args.effect();
                (name, effect, &mut args.manage)
            }
            Self::Session(args) => ("session", Effect::Reads, &mut args.manage),
            Self::Usage(args) => ("usage", Effect::Reads, &mut args.manage),
            Self::Storage(args) => ("storage", Effect::Reads, &mut args.manage),
            Self::Audit(args) => ("audit", Effect::Reads, &mut args.manage),
            Self::Billing(args) => match &mut args.command {
                BillingCommand::Usage(args) => ("billing usage", Effect::Reads, &mut args.manage),
                BillingCommand::CheckpointStorage(args) => {
                    let name = "billing checkpoint-storage";
                    (name, Effect::Reads, &mut args.manage)
                }
            },
        };
        manage.complete(name, format, effect)
    }
}
