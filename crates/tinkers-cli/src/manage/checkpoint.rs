//! `tinkers checkpoint`: lists, descriptions, publication and expiry.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use tinkers::{Error, ErrorKind, RestClient, Sent};

use super::connection::{client, now};
use super::find::{CHECKPOINTS, columns, find};
use super::table::{List, Table, column, field, with_fields};
use super::{cells, delete};
use crate::args::{CheckpointArgs, CheckpointCommand, OutputFormat, PAGED};

/// A checkpoint with the facts about its run.
const DESCRIPTION: Table = Table {
    list: "checkpoints",
    noun: "checkpoints",
    fields: &[
        field("checkpoint_id"),
        field("checkpoint_type"),
        field("time"),
        field("tinker_path"),
        field("size_bytes"),
        field("public"),
        field("user_metadata"),
        field("expires_at"),
        field("base_model"),
        field("is_lora"),
        field("lora_rank"),
    ],
    columns: &[
        columns::ID,
        columns::TYPE,
        columns::PATH,
        columns::SIZE,
        columns::PUBLIC,
        columns::CREATED,
        columns::EXPIRES,
        column("model", "Base Model", |row| cells::text(row, "base_model")),
        column("lora", "LoRA", |row| cells::yes_no(row, "is_lora")),
        column("rank", "LoRA Rank", |row| cells::text(row, "lora_rank")),
    ],
};

/// The new state of a checkpoint after a change.
const CHANGE: Table = Table {
    list: "checkpoints",
    noun: "checkpoints",
    fields: &[field("tinker_path"), field("change"), field("ttl_seconds")],
    columns: &[],
};

pub(super) async fn execute(args: &CheckpointArgs) -> Result<()> {
    let format = args.manage.format();
    match &args.command {
        CheckpointCommand::List { filter, list } => {
            let limit = list.limit(PAGED);
            let client = client(&args.manage)?;
            let listed = find(&client, filter, limit).await?;
            let mut list = List::new(listed.items, listed.has_more)?;
            if let Some(run_id) = &filter.run_id {
                list.before.push(("run_id", json!(run_id)));
            }
            CHECKPOINTS.print(&list, format, None, now())
        }
        CheckpointCommand::Info { path } => {
            let description = describe(&client(&args.manage)?, &path.path).await?;
            DESCRIPTION.print_one(&description, format, now())
        }
        CheckpointCommand::Publish { path } => {
            let path = &path.path;
            let client = client(&args.manage)?;
            client.publish_checkpoint_from_tinker_path(path).await?;
            print_change(format, path, "published", None)
        }
        CheckpointCommand::Unpublish { path } => {
            let path = &path.path;
            let client = client(&args.manage)?;
            client.unpublish_checkpoint_from_tinker_path(path).await?;
            print_change(format, path, "unpublished", None)
        }
        // `--remove` is set if there is no time.
        CheckpointCommand::SetTtl { path, ttl, .. } => {
            let path = &path.path;
            let time = ttl.map(Duration::from_secs);
            let client = client(&args.manage)?;
            let setting = client.set_checkpoint_ttl_from_tinker_path(path, time);
            setting.await?;
            let change = if ttl.is_some() {
                "ttl set"
            } else {
                "ttl removed"
            };
            print_change(format, path, change, *ttl)
        }
        CheckpointCommand::Delete {
            paths, filter, yes, ..
        } => delete::execute(&args.manage, paths, filter, *yes).await,
    }
}

async fn describe(client: &RestClient, path: &str) -> Result<Value> {
    let run = client.get_training_run_by_tinker_path(path).await?;
    let all = client.list_checkpoints(&run.training_run_id).await?;
    let found = all.into_iter().find(|one| one.tinker_path == path);
    let mut checkpoint = found.ok_or_else(|| {
        let message = format!(
            "run {} has no checkpoint {path}; `tinkers checkpoint list --run-id {}` lists them",
            run.training_run_id, run.training_run_id
        );
        Error::new(ErrorKind::NotFound, Sent::Answered, message)
    })?;
    checkpoint.base_model.get_or_insert(run.base_model);
    let facts = [
        ("is_lora", json!(run.is_lora)),
        ("lora_rank", json!(run.lora_rank)),
    ];
    with_fields(&checkpoint, facts)
}

/// Reports a change of a checkpoint.
fn print_change(format: OutputFormat, path: &str, change: &str, ttl: Option<u64>) -> Result<()> {
    if format == OutputFormat::Table {
        crate::output::print_line(format_args!("{change}: {path}"))?;
        return Ok(());
    }
    let done = json!({"tinker_path": path, "change": change, "ttl_seconds": ttl});
    CHANGE.print_one(&done, format, now())
}
