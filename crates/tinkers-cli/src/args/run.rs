//! The arguments of `tinkers run`.

use clap::{Args, Subcommand};

use super::{ListArgs, ManageArgs};

/// The names of the columns of the table.
pub(crate) const COLUMNS: [&str; 8] = [
    "id",
    "model",
    "owner",
    "lora",
    "updated",
    "status",
    "checkpoint",
    "checkpoint_time",
];

/// The arguments of `tinkers run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(subcommand)]
    pub(crate) command: RunCommand,
    #[command(flatten)]
    pub(crate) manage: ManageArgs,
}

/// The commands of `tinkers run`.
#[derive(Debug, Subcommand)]
pub(crate) enum RunCommand {
    /// List your training runs, the most recently used first
    #[command(after_help = "\
Examples:
  tinkers run list
  tinkers run list --limit 100 --columns id,model,checkpoint
  tinkers run list --all --format csv > runs.csv")]
    List {
        /// The columns of the table, separated by commas: id, model, owner, lora, updated, status, checkpoint, checkpoint_time
        /// [default: id,model,lora,updated,status]
        #[arg(short, long, value_name = "LIST", value_parser = parse_columns, help_heading = "List")]
        columns: Option<Columns>,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Describe a training run
    Info {
        /// The id of the run
        run_id: String,
    },
}

/// The names of the columns to print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Columns(pub(crate) Vec<&'static str>);

/// Parses the names of columns, separated by commas.
fn parse_columns(text: &str) -> Result<Columns, String> {
    let names = text.split(',').map(str::trim);
    let names = names.map(|name| COLUMNS.into_iter().find(|column| *column == name));
    let names: Option<Vec<&'static str>> = names.collect();
    names
        .map(Columns)
        .ok_or_else(|| format!("expected names from {}", COLUMNS.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn column_names_are_checked() {
        assert_eq!(
            parse_columns("checkpoint, id"),
            Ok(Columns(vec!["checkpoint", "id"]))
        );
        for wrong in ["", "id,", "id,unknown"] {
            let error = parse_columns(wrong).unwrap_err();
            assert!(error.ends_with("checkpoint, checkpoint_time"), "{error}");
        }
    }
}
