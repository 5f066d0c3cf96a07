//! `tinkers storage`: the current storage of checkpoints.

use anyhow::Result;
use serde_json::json;

use super::connection::{client, now};
use super::table::{List, Table, column, field, field_of_csv, with_fields};
use super::{cells, usage};
use crate::args::StorageArgs;

/// The rate is that of the whole response; CSV and the table repeat it in each row.
const STORAGE: Table = Table {
    list: "data",
    noun: "rows of storage",
    fields: &[
        field_of_csv("effective_rate_usd_per_gigabyte_month"),
        field("project_id"),
        field("org_user_urn"),
        field("user_email"),
        field("user_name"),
        field("checkpoint_count"),
        field("size_bytes"),
        field("size_gigabytes"),
        field("estimated_monthly_cost_usd"),
    ],
    columns: &[
        column("project", "Project", |row| cells::text(row, "project_id")),
        column("user", "User", |row| cells::text(row, "user_name")),
        column("email", "Email", |row| cells::text(row, "user_email")),
        column("checkpoints", "Checkpoints", |row| {
            cells::text(row, "checkpoint_count")
        }),
        column("size", "Size", |row| cells::bytes(row, "size_bytes")),
        column("cost", "Cost per Month", |row| {
            cells::dollars(row, "estimated_monthly_cost_usd")
        }),
        column("rate", "Rate per GB and Month", |row| {
            cells::dollars(row, "effective_rate_usd_per_gigabyte_month")
        }),
    ],
};

pub(super) async fn execute(args: &StorageArgs) -> Result<()> {
    let admin = client(&args.manage)?.admin();
    let project = args.project_id.as_deref();
    let usage = admin.get_current_checkpoint_storage_usage(project).await?;
    let rate = usage.effective_rate_usd_per_gigabyte_month;
    let rate = ("effective_rate_usd_per_gigabyte_month", json!(rate));
    let rows: Result<Vec<_>> = usage
        .data
        .iter()
        .map(|row| with_fields(row, [rate.clone()]))
        .collect();
    let mut rows = List::new(rows?, false)?;
    rows.before.push(rate);
    if let Some(path) = &args.csv {
        return usage::write_file(path, &STORAGE.csv(&rows.rows)?);
    }
    let format = args.manage.format();
    rows.cut(args.list.limit_of_whole(format));
    STORAGE.print(&rows, format, None, now())
}
