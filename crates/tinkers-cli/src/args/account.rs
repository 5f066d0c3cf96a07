//! The arguments of `tinkers usage`, `tinkers storage`, `tinkers audit`, and of their official names in `tinkers billing`.

use std::path::PathBuf;
use std::time::SystemTime;

use clap::{Args, Subcommand, ValueEnum};
use tinkers::rest::AuditEventType;

use super::checkpoint::date;
use super::{ListArgs, ManageArgs};

/// The arguments of `tinkers usage`.
#[derive(Debug, Args)]
#[command(after_help = "\
Both times are full hours in UTC, at most 14 days apart. JSON and CSV contain all rows, unless --limit is given.

Examples:
  tinkers usage 2026-06-01 2026-06-08
  tinkers usage 2026-06-01T12:00 2026-06-01T13:00 --csv usage.csv --sessions-csv sessions.csv")]
pub(crate) struct UsageArgs {
    /// The start of the period
    #[arg(value_name = "START", value_parser = date)]
    pub(crate) starting_on: SystemTime,
    /// The end of the period, which is not part of it
    #[arg(value_name = "END", value_parser = date)]
    pub(crate) ending_before: SystemTime,
    /// Write the usage as CSV to this file, and print no table; - for stdout
    #[arg(long, value_name = "PATH", help_heading = "Output")]
    pub(crate) csv: Option<PathBuf>,
    /// Write the metadata of the sessions as CSV to this file, and print no table; - for stdout
    #[arg(long, value_name = "PATH", help_heading = "Output")]
    pub(crate) sessions_csv: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) list: ListArgs,
    #[command(flatten)]
    pub(crate) manage: ManageArgs,
}

/// The arguments of `tinkers storage`.
#[derive(Debug, Args)]
#[command(after_help = "JSON and CSV contain all rows, unless --limit is given.")]
pub(crate) struct StorageArgs {
    /// Only the checkpoints of this project
    #[arg(long, value_name = "ID")]
    pub(crate) project_id: Option<String>,
    /// Write the rows as CSV to this file, and print no table; - for stdout
    #[arg(long, value_name = "PATH", help_heading = "Output")]
    pub(crate) csv: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) list: ListArgs,
    #[command(flatten)]
    pub(crate) manage: ManageArgs,
}

/// The arguments of `tinkers audit`.
#[derive(Debug, Args)]
#[command(after_help = "\
The log begins with the earliest entry. The table shows the newest 100 entries; JSON and CSV contain all, unless --limit is given.")]
pub(crate) struct AuditArgs {
    /// The day in UTC, such as 2026-06-01 [default: today]
    #[arg(long, value_name = "DAY")]
    pub(crate) day: Option<String>,
    /// The kind of events
    #[arg(long = "type", value_name = "TYPE", value_enum, default_value = "all")]
    event_type: EventType,
    #[command(flatten)]
    pub(crate) list: ListArgs,
    #[command(flatten)]
    pub(crate) manage: ManageArgs,
}

impl AuditArgs {
    /// Returns the kind of events.
    pub(crate) fn event_type(&self) -> AuditEventType {
        match self.event_type {
            EventType::All => AuditEventType::All,
            EventType::Checkpoints => AuditEventType::Checkpoints,
            EventType::Projects => AuditEventType::Projects,
            EventType::Teams => AuditEventType::Teams,
            EventType::Organizations => AuditEventType::Organizations,
        }
    }
}

/// The kinds of events of the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EventType {
    // Plain comments, since doc comments on values would switch --help to its long form.
    All,
    Checkpoints,
    Projects,
    Teams,
    Organizations,
}

/// The arguments of `tinkers billing`.
#[derive(Debug, Args)]
pub(crate) struct BillingArgs {
    #[command(subcommand)]
    pub(crate) command: BillingCommand,
}

/// The commands of `tinkers billing`, which have shorter names, too.
#[derive(Debug, Subcommand)]
pub(crate) enum BillingCommand {
    /// The same as `tinkers usage`
    Usage(UsageArgs),
    /// The same as `tinkers storage`
    CheckpointStorage(StorageArgs),
}
