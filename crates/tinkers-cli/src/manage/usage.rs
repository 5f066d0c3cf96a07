//! `tinkers usage`: the usage of a period, per hour.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tinkers::rest::BillingUsage;

use super::cells;
use super::connection::{client, now};
use super::table::{List, Row, Table, column, field, nested};
use crate::args::UsageArgs;
use crate::exit::{ExitCode, Failed};

const USAGE: Table = Table {
    list: "data",
    noun: "rows of usage",
    fields: &[
        field("bucket_start"),
        field("bucket_end"),
        field("base_model"),
        field("user_id"),
        field("user_name"),
        field("session_id"),
        field("project_id"),
        field("estimated_cost_usd"),
        field("effective_rate_usd_per_million_tokens"),
        field("effective_rate_usd_per_gigabyte_month"),
        nested("event_info.type", "type"),
        nested("event_info.cached", "cached"),
        nested("event_info.token_count", "token_count"),
        nested("event_info.count", "count"),
        nested("event_info.free", "free"),
        nested("event_info.gigabyte_hours", "gigabyte_hours"),
    ],
    columns: &[
        column("start", "Start", |row| cells::text(row, "bucket_start")),
        column("type", "Type", |row| cells::text(row, "event_info.type")),
        column("amount", "Amount", amount),
        column("model", "Base Model", |row| cells::text(row, "base_model")),
        column("user", "User", |row| cells::text(row, "user_name")),
        column("session", "Session", |row| cells::text(row, "session_id")).whole(),
        column("cost", "Cost", |row| {
            cells::dollars(row, "estimated_cost_usd")
        }),
    ],
};

/// The metadata of the sessions, which is a CSV file of its own.
const SESSIONS: Table = Table {
    list: "sessions",
    noun: "sessions",
    fields: &[field("session_id"), field("user_metadata")],
    columns: &[],
};

pub(super) async fn execute(args: &UsageArgs) -> Result<()> {
    let is_stdout = |path: &Option<PathBuf>| path.as_deref() == Some(Path::new("-"));
    if is_stdout(&args.csv) && is_stdout(&args.sessions_csv) {
        let message =
            "only one of --csv and --sessions-csv can write to stdout: name a file for the other";
        return Err(Failed::new(ExitCode::Usage, message).into());
    }
    let admin = client(&args.manage)?.admin();
    let usage = admin.get_billing_usage(args.starting_on, args.ending_before);
    let usage = usage.await?;
    if let Some(path) = &args.sessions_csv {
        write_file(path, &SESSIONS.csv(&sessions(&usage))?)?;
    }
    let mut rows = List::new(&usage.data, false)?;
    if let Some(path) = &args.csv {
        return write_file(path, &USAGE.csv(&rows.rows)?);
    }
    if args.sessions_csv.is_some() {
        return Ok(());
    }
    let format = args.manage.format();
    rows.cut(args.list.limit_of_whole(format));
    rows.after = vec![
        ("sessions", json!(usage.sessions)),
        ("cost_data_through", json!(usage.cost_data_through)),
    ];
    USAGE.print(&rows, format, None, now())
}

fn sessions(usage: &BillingUsage) -> Vec<Value> {
    let sessions = usage.sessions.iter();
    sessions
        .map(|(id, session)| json!({"session_id": id, "user_metadata": session.user_metadata}))
        .collect()
}

/// Writes a file, or stdout if its name is `-`.
pub(super) fn write_file(path: &Path, content: &[u8]) -> Result<()> {
    if path.as_os_str() == "-" {
        return Ok(io::stdout().lock().write_all(content)?);
    }
    std::fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

/// Returns the amount of a row: tokens, checkpoints or storage.
fn amount(row: &Row<'_>) -> String {
    for (path, unit) in [
        ("event_info.token_count", "tokens"),
        ("event_info.count", "checkpoints"),
        ("event_info.gigabyte_hours", "GB h"),
    ] {
        if let Some(number) = row.get(path) {
            return format!("{number} {unit}");
        }
    }
    "N/A".to_owned()
}
