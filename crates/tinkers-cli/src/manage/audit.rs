//! `tinkers audit`: the audit log of a day.

use anyhow::Result;

use super::cells;
use super::connection::{client, now};
use super::table::{List, Row, Table, column, field};
use crate::args::AuditArgs;

const ENTRIES: Table = Table {
    list: "entries",
    noun: "entries",
    fields: &[
        field("timestamp"),
        field("event"),
        field("event_details"),
        field("model_id"),
        field("tinker_path"),
        field("purpose"),
    ],
    columns: &[
        column("time", "Time", |row| cells::text(row, "timestamp")),
        column("event", "Event", |row| cells::text(row, "event")),
        column("details", "Details", |row| {
            cells::text(row, "event_details")
        }),
        column("path", "Path", path).whole(),
    ],
};

/// Returns the path of the checkpoint. Some servers have it only in the details.
fn path(row: &Row<'_>) -> String {
    let inner = "event_details.tinker_path";
    let is_outer = row.get("tinker_path").is_some();
    cells::text(row, if is_outer { "tinker_path" } else { inner })
}

pub(super) async fn execute(args: &AuditArgs) -> Result<()> {
    let admin = client(&args.manage)?.admin();
    let log = admin.get_audit_log(args.event_type(), args.day.as_deref());
    let mut entries = List::new(log.await?, false)?;
    let format = args.manage.format();
    // The log begins with the earliest entry.
    entries.cut_to_last(args.list.limit_of_whole(format));
    ENTRIES.print(&entries, format, None, now())
}
