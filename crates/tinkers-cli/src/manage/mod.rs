//! The management commands: models, runs, checkpoints, sessions, usage, storage and the audit log.

mod audit;
mod cells;
mod checkpoint;
mod connection;
mod delete;
mod find;
mod identity;
mod listing;
mod model;
mod run;
mod session;
mod storage;
mod table;
mod trace;
mod usage;

use anyhow::Result;

pub(crate) use self::identity::print_identity_as_csv;
use crate::args::{BillingCommand, ManageCommand};
use crate::signals::{Signals, interruptible};

/// Runs a management command.
///
/// # Errors
/// If the command fails or a signal arrives.
pub(crate) async fn execute(command: &ManageCommand, signals: &mut Signals) -> Result<()> {
    interruptible(signals, Box::pin(dispatch(command))).await
}

async fn dispatch(command: &ManageCommand) -> Result<()> {
    match command {
        ManageCommand::Model(args) => model::execute(args).await,
        ManageCommand::Run(args) => run::execute(args).await,
        ManageCommand::Checkpoint(args) => checkpoint::execute(args).await,
        ManageCommand::Session(args) => session::execute(args).await,
        ManageCommand::Usage(args) => usage::execute(args).await,
        ManageCommand::Storage(args) => storage::execute(args).await,
        ManageCommand::Audit(args) => audit::execute(args).await,
        ManageCommand::Billing(args) => match &args.command {
            BillingCommand::Usage(args) => usage::execute(args).await,
            BillingCommand::CheckpointStorage(args) => storage::execute(args).await,
        },
    }
}
