//! `tinkers run`: training runs.

use anyhow::Result;

use super::cells;
use super::connection::{client, now};
use super::listing::{self, LARGEST_PAGE, page_size};
use super::table::{List, Row, Table, column, field, nested};
use crate::args::{PAGED, RunArgs, RunCommand};

const RUNS: Table = Table {
    list: "runs",
    noun: "runs",
    fields: &[
        field("training_run_id"),
        field("base_model"),
        field("model_owner"),
        field("is_lora"),
        field("lora_rank"),
        field("corrupted"),
        field("last_request_time"),
        nested("last_checkpoint.tinker_path", "last_checkpoint_path"),
        nested("last_checkpoint.time", "last_checkpoint_time"),
        nested(
            "last_sampler_checkpoint.tinker_path",
            "last_sampler_checkpoint_path",
        ),
        nested(
            "last_sampler_checkpoint.time",
            "last_sampler_checkpoint_time",
        ),
        field("user_metadata"),
    ],
    columns: &[
        column("id", "Run ID", |row| cells::text(row, "training_run_id")).whole(),
        column("model", "Base Model", |row| cells::text(row, "base_model")),
        column("owner", "Owner", |row| cells::text(row, "model_owner")).on_request(),
        column("lora", "LoRA", lora),
        column("updated", "Last Update", |row| {
            cells::age(row, "last_request_time")
        }),
        column("status", "Status", status),
        column("checkpoint", "Last Checkpoint", |row| {
            cells::text(row, "last_checkpoint.checkpoint_id")
        })
        .on_request(),
        column("checkpoint_time", "Checkpoint Time", |row| {
            cells::age(row, "last_checkpoint.time")
        })
        .on_request(),
    ],
};

pub(super) async fn execute(args: &RunArgs) -> Result<()> {
    let client = client(&args.manage)?;
    let format = args.manage.format();
    match &args.command {
        RunCommand::Info { run_id } => {
            let run = client.get_training_run(run_id).await?;
            RUNS.print_one(&run, format, now())
        }
        RunCommand::List { columns, list } => {
            let limit = list.limit(PAGED);
            let runs = client
                .list_training_runs()
                .page_size(page_size(limit, LARGEST_PAGE));
            let listed = listing::read(runs.stream(), limit, RUNS.noun, |_| true).await?;
            let list = List::new(listed.items, listed.has_more)?;
            let columns = columns.as_ref().map(|columns| &*columns.0);
            RUNS.print(&list, format, columns, now())
        }
    }
}

fn lora(row: &Row<'_>) -> String {
    match (cells::yes_no(row, "is_lora"), row.get("lora_rank")) {
        (yes, Some(rank)) if yes == "Yes" => format!("rank {rank}"),
        (text, _) => text,
    }
}

fn status(row: &Row<'_>) -> String {
    match row.get("corrupted").and_then(serde_json::Value::as_bool) {
        Some(true) => "corrupted",
        _ => "ok",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::COLUMNS;

    #[test]
    fn columns_of_the_command_line_are_those_of_the_table() {
        let names: Vec<&str> = RUNS.columns.iter().map(|column| column.name).collect();
        assert_eq!(names, COLUMNS);
    }
}
