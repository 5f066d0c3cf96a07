//! `tinkers session trace`: exports the trace of a session.

use std::path::Path;

use anyhow::Result;
use serde_json::json;
use tinkers::RestClient;

use super::cells;
use super::connection::now;
use super::table::{Table, column, field};
use crate::args::OutputFormat;
use crate::output::Counter;

const ADDRESS: Table = Table {
    list: "traces",
    noun: "traces",
    fields: &[field("session_id"), field("url")],
    columns: &[column("url", "URL", |row| cells::text(row, "url"))],
};

/// Waits until the server has built the trace of a session, and prints its signed address.
pub(super) async fn execute(
    client: &RestClient,
    session_id: &str,
    _output: Option<&Path>,
    _url_only: bool,
    format: OutputFormat,
) -> Result<()> {
    let waiting = Counter::start("waiting for the trace".to_owned(), None);
    let url = client.export_session_trace(session_id).await?;
    drop(waiting);
    if format == OutputFormat::Table {
        return Ok(crate::output::print_line(url.expose())?);
    }
    let address = json!({"session_id": session_id, "url": url.expose()});
    ADDRESS.print_one(&address, format, now())
}
