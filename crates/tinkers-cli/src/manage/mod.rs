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
use crate::args::{BillingCommand, Command};
use crate::signals::{Signals, interruptible};

/// Runs a management command.
///
/// # Errors
/// If the command fails or a signal arrives.
pub(crate) async fn execute(command: &Command, signals: &mut Signals) -> Result<()> {
    interruptible(signals, Box::pin(dispatch(command))).await
}

async fn dispatch(command: &Command) -> Result<()> {
    match command {
        Command::Model(args) => model::execute(args).await,
        Command::Run(args) => run::execute(args).await,
        Command::Checkpoint(args) => checkpoint::execute(args).await,
        Command::Session(args) => session::execute(args).await,
        Command::Usage(args) => usage::execute(args).await,
        Command::Storage(args) => storage::execute(args).await,
        Command::Audit(args) => audit::execute(args).await,
        Command::Billing(args) => match &args.command {
            BillingCommand::Usage(args) => usage::execute(args).await,
            BillingCommand::CheckpointStorage(args) => storage::execute(args).await,
        },
        _ => unreachable!("the command is no management command"),
    }
}
