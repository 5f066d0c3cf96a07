//! `tinkers session`: sessions and their traces.

use anyhow::Result;
use serde_json::json;

use super::connection::{client, now};
use super::listing::{self, LARGEST_PAGE, page_size};
use super::table::{List, Row, Table, column, field, with_fields};
use super::{cells, trace};
use crate::args::{PAGED, SessionArgs, SessionCommand};

const SESSIONS: Table = Table {
    list: "sessions",
    noun: "sessions",
    fields: &[field("session_id")],
    columns: &[column("id", "Session ID", |row| cells::text(row, "session_id")).whole()],
};

const DESCRIPTION: Table = Table {
    list: "sessions",
    noun: "sessions",
    fields: &[
        field("session_id"),
        field("display_name"),
        field("training_run_ids"),
        field("sampler_ids"),
        field("user_metadata"),
    ],
    columns: &[
        column("id", "Session ID", |row| cells::text(row, "session_id")),
        column("name", "Name", |row| cells::text(row, "display_name")),
        column("runs", "Training Runs", |row| ids(row, "training_run_ids")),
        column("samplers", "Samplers", |row| ids(row, "sampler_ids")),
        column("metadata", "Metadata", |row| {
            cells::text(row, "user_metadata")
        }),
    ],
};

pub(super) async fn execute(args: &SessionArgs) -> Result<()> {
    let format = args.manage.format();
    match &args.command {
        SessionCommand::List { list } => {
            let limit = list.limit(PAGED);
            let sessions = client(&args.manage)?
                .list_sessions()
                .page_size(page_size(limit, LARGEST_PAGE));
            let listed = listing::read(sessions.stream(), limit, SESSIONS.noun, |_| true).await?;
            let ids = listed.items.into_iter();
            let rows = ids.map(|id| json!({ "session_id": id }));
            SESSIONS.print(&List::new(rows, listed.has_more)?, format, None, now())
        }
        SessionCommand::Info { session_id } => {
            let info = client(&args.manage)?.get_session(session_id).await?;
            let info = with_fields(&info, [("session_id", json!(session_id))])?;
            DESCRIPTION.print_one(&info, format, now())
        }
        SessionCommand::Trace {
            session_id,
            output,
            url_only,
        } => trace::execute(&args.manage, session_id, output.as_deref(), *url_only).await,
    }
}

/// Returns the ids at a path, separated by spaces.
fn ids(row: &Row<'_>, path: &str) -> String {
    let all = row.get(path).and_then(serde_json::Value::as_array);
    let ids = all.into_iter().flatten().filter_map(|id| id.as_str());
    let ids: Vec<&str> = ids.collect();
    match ids.is_empty() {
        true => "none".to_owned(),
        false => ids.join(" "),
    }
}
