//! The arguments of `tinkers checkpoint`.

use std::time::{Duration, SystemTime};

use clap::error::ErrorKind;
use clap::{ArgGroup, Args, Subcommand};
use tinkers::wire::since_epoch;
use tinkers::{CheckpointKind, TinkerPath};
use wildmatch::WildMatch;

use super::manage::Effect;
use super::numbers::integer;
use super::{ListArgs, ManageArgs, usage_error};

/// The arguments of `tinkers checkpoint`.
#[derive(Debug, Args)]
pub(crate) struct CheckpointArgs {
    #[command(subcommand)]
    pub(crate) command: CheckpointCommand,
    #[command(flatten)]
    pub(crate) manage: ManageArgs,
}

/// The commands of `tinkers checkpoint`.
#[derive(Debug, Subcommand)]
pub(crate) enum CheckpointCommand {
    /// List your checkpoints, or those of a training run, the newest first
    #[command(after_help = "\
Examples:
  tinkers checkpoint list
  tinkers checkpoint list --run-id RUN --type sampler --pattern 'step-*'
  tinkers checkpoint list --before 2026-06-01 --all --format csv")]
    List {
        #[command(flatten)]
        filter: FilterArgs,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Describe a checkpoint
    Info {
        #[command(flatten)]
        path: PathArg,
    },
    /// Publish a checkpoint: all users of the service can then read it
    #[command(after_help = CHANGES)]
    Publish {
        #[command(flatten)]
        path: PathArg,
    },
    /// Unpublish a checkpoint: only its owner can then read it
    #[command(after_help = CHANGES)]
    Unpublish {
        #[command(flatten)]
        path: PathArg,
    },
    /// Set or remove the time after which the server deletes a checkpoint
    #[command(after_help = CHANGES, group(ArgGroup::new("time").required(true).args(["ttl", "remove"])))]
    SetTtl {
        #[command(flatten)]
        path: PathArg,
        /// The time from now in seconds, from one hour to ten years
        #[arg(
            long,
            value_name = "SECONDS",
            value_parser = integer::<u64>,
            allow_hyphen_values = true
        )]
        ttl: Option<u64>,
        /// Keep the checkpoint until it is deleted
        #[arg(long)]
        remove: bool,
    },
    /// Delete checkpoints, by path or by a filter, after showing them and asking
    #[command(after_help = "\
Deleted checkpoints cannot be restored. A failed deletion does not end the others.
The server must be named: --base-url URL, --hosted or --local.

Examples:
  tinkers checkpoint delete tinker://RUN/weights/step-10 --hosted
  tinkers checkpoint delete --run-id RUN --type sampler --pattern 'step-*' --hosted
  tinkers checkpoint delete --before 2026-06-01 --all-runs --yes --local")]
    Delete {
        /// The paths of the checkpoints, such as tinker://RUN/weights/step-10; in place of a filter
        #[arg(value_name = "PATH", value_parser = checkpoint_path)]
        paths: Vec<String>,
        #[command(flatten)]
        filter: FilterArgs,
        /// Select in all training runs of the account; required with --yes and a filter without --run-id
        #[arg(long, conflicts_with_all = ["run_id", "paths"], help_heading = "Filter")]
        all_runs: bool,
        /// Delete without asking; required if there is no terminal
        #[arg(short, long)]
        yes: bool,
    },
}

const CHANGES: &str = "The server must be named: --base-url URL, --hosted or --local.";

/// The path of a checkpoint.
#[derive(Debug, Clone, Args)]
pub(crate) struct PathArg {
    /// The path of the checkpoint, such as tinker://RUN/weights/step-10
    #[arg(value_name = "PATH", value_parser = checkpoint_path)]
    pub(crate) path: String,
}

/// The conditions on checkpoints. All of those that are given must hold.
#[derive(Debug, Clone, Args)]
pub(crate) struct FilterArgs {
    /// Only checkpoints of this training run
    #[arg(long, value_name = "ID", help_heading = "Filter")]
    pub(crate) run_id: Option<String>,
    /// Only checkpoints of this type: training (or weights), sampler (or sampler_weights), external (or external_weights)
    #[arg(long = "type", value_name = "TYPE", value_parser = kind, help_heading = "Filter")]
    pub(crate) kind: Option<CheckpointKind>,
    /// Only checkpoints that were saved before this time, in ISO 8601, such as 2026-06-01 or 2026-06-01T12:00:00+02:00; UTC without a
    /// zone
    #[arg(long, value_name = "DATE", value_parser = date, help_heading = "Filter")]
    pub(crate) before: Option<SystemTime>,
    /// Only checkpoints that were saved at this time or later
    #[arg(long, value_name = "DATE", value_parser = date, help_heading = "Filter")]
    pub(crate) after: Option<SystemTime>,
    /// Only checkpoints whose name (without type) matches; * stands for any characters, ? for one
    #[arg(long, value_name = "GLOB", value_parser = pattern, help_heading = "Filter")]
    pub(crate) pattern: Option<WildMatch>,
}

impl FilterArgs {
    /// Returns whether there is no condition.
    fn is_empty(&self) -> bool {
        self.run_id.is_none() && self.matches_all_of_a_run()
    }

    /// Returns whether there is no condition but the run.
    pub(crate) fn matches_all_of_a_run(&self) -> bool {
        let has_dates = self.before.is_some() || self.after.is_some();
        !has_dates && self.kind.is_none() && self.pattern.is_none()
    }
}

impl CheckpointArgs {
    /// Returns whether the command changes something, and its name in usage errors.
    pub(super) fn effect(&self) -> (Effect, &'static str) {
        match &self.command {
            CheckpointCommand::List { .. } => (Effect::Reads, "checkpoint list"),
            CheckpointCommand::Info { .. } => (Effect::Reads, "checkpoint info"),
            CheckpointCommand::Publish { .. } => (Effect::Changes, "checkpoint publish"),
            CheckpointCommand::Unpublish { .. } => (Effect::Changes, "checkpoint unpublish"),
            CheckpointCommand::SetTtl { .. } => (Effect::Changes, "checkpoint set-ttl"),
            CheckpointCommand::Delete { .. } => (Effect::Changes, "checkpoint delete"),
        }
    }

    /// Checks that checkpoints to delete are named either by paths or by a filter, and that a deletion in all runs is asked for.
    pub(super) fn check(&self) -> Result<(), clap::Error> {
        let CheckpointCommand::Delete {
            paths,
            filter,
            all_runs,
            yes,
        } = &self.command
        else {
            return Ok(());
        };
        let is_unasked = *yes && !all_runs;
        let (kind, problem) = match (paths.is_empty(), filter.is_empty()) {
            (true, true) => (
                ErrorKind::MissingRequiredArgument,
                "missing checkpoints: give paths, or a filter with --run-id, --type, --before, --after or --pattern",
            ),
            (false, false) => (
                ErrorKind::ArgumentConflict,
                "paths and a filter cannot be used together: delete in two steps",
            ),
            (true, false) if is_unasked && filter.run_id.is_none() => (
                ErrorKind::MissingRequiredArgument,
                "with --yes, a filter without --run-id would delete in all training runs of the account: \
                 add --run-id ID, or --all-runs to select in all of them; `tinkers checkpoint list` with the same filter shows what it selects",
            ),
            _ => return Ok(()),
        };
        Err(usage_error("checkpoint delete", kind, problem))
    }
}

/// Parses the path of a checkpoint with its kind.
fn checkpoint_path(text: &str) -> Result<String, String> {
    match is_checkpoint_path(text) {
        true => Ok(text.to_owned()),
        false => Err(
            "expected tinker://RUN/KIND/NAME, with the kind weights, sampler_weights or external_weights"
                .to_owned(),
        ),
    }
}

/// Returns whether a text is the path of a checkpoint with its kind, which requests for single checkpoints need.
pub(crate) fn is_checkpoint_path(text: &str) -> bool {
    let Ok(path) = text.parse::<TinkerPath>() else {
        return false;
    };
    match (path.run_id(), path.checkpoint_id()) {
        // The short form `tinker://<run>/<name>` does not say the kind.
        (Some(run), Some(id)) => text == format!("tinker://{run}/{id}"),
        _ => false,
    }
}

/// Parses a type of checkpoints: its name in lists, or in paths.
fn kind(text: &str) -> Result<CheckpointKind, String> {
    let found = CheckpointKind::from_segment(text).or_else(|| text.parse().ok());
    found.ok_or_else(|| {
        "expected training, sampler or external (or weights, sampler_weights, external_weights)"
            .to_owned()
    })
}

/// Parses a date, with or without a time.
pub(super) fn date(text: &str) -> Result<SystemTime, String> {
    let since: Option<Duration> = since_epoch(text);
    since
        .and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since))
        .ok_or_else(|| "expected a date such as 2026-06-01 or 2026-06-01T12:00:00Z".to_owned())
}

fn pattern(text: &str) -> Result<WildMatch, String> {
    match text.is_empty() {
        true => Err("expected a pattern such as step-*".to_owned()),
        false => Ok(WildMatch::new(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_with_run_kind_and_name_are_paths_of_checkpoints() {
        assert!(is_checkpoint_path("tinker://a:train:0/weights/step-1"));
        assert!(is_checkpoint_path("tinker://a/external_weights/x"));
        for wrong in [
            "",
            "weights/a",
            "tinker://a",
            "tinker://a/b",
            "tinker://a/other/b",
            "tinker://a/weights/b/c",
            "http://a/weights/b",
        ] {
            assert!(!is_checkpoint_path(wrong), "{wrong}");
        }
    }
}
