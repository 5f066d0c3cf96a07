//! `tinkers session trace`: exports the trace of a session.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;
use tinkers::ServiceClient;
use tinkers::rest::SignedUrl;

use super::cells::{self, size_text};
use super::connection::{client, now};
use super::table::{Table, column, field};
use crate::args::{ManageArgs, OutputFormat};
use crate::output::{self, Counter};

/// The maximum size of a trace in bytes. The trace is held in memory.
const MAX_TRACE: usize = 1 << 30;

const ADDRESS: Table = Table {
    list: "traces",
    noun: "traces",
    fields: &[field("session_id"), field("url")],
    columns: &[column("url", "URL", |row| cells::text(row, "url"))],
};

const FILE: Table = Table {
    list: "traces",
    noun: "traces",
    fields: &[
        field("session_id"),
        field("destination"),
        field("file_size_bytes"),
    ],
    columns: &[column("destination", "Destination", |row| {
        cells::text(row, "destination")
    })],
};

/// Waits until the server has built the trace of a session, and downloads it, or prints its signed address.
///
/// # Errors
/// If the trace cannot be built or downloaded, or the file cannot be written.
pub(super) async fn execute(
    args: &ManageArgs,
    session_id: &str,
    output: Option<&Path>,
    is_url_only: bool,
) -> Result<()> {
    let waiting = Counter::start("waiting for the trace".to_owned(), None);
    let url = client(args)?.export_session_trace(session_id).await?;
    drop(waiting);
    match is_url_only {
        true => print_address(args.format(), session_id, &url),
        false => download(args.format(), session_id, &url, output).await,
    }
}

fn print_address(format: OutputFormat, session_id: &str, url: &SignedUrl) -> Result<()> {
    if format == OutputFormat::Table {
        return Ok(output::print_line(output::one_line(url.expose()))?);
    }
    let address = json!({"session_id": session_id, "url": url.expose()});
    ADDRESS.print_one(&address, format, now())
}

async fn download(
    format: OutputFormat,
    session_id: &str,
    url: &SignedUrl,
    output: Option<&Path>,
) -> Result<()> {
    let file = output.map_or_else(|| default_file(session_id), Path::to_path_buf);
    let waiting = Counter::start("downloading the trace".to_owned(), None);
    let download = ServiceClient::builder().download_signed_file(url, MAX_TRACE);
    let content = download.await.context("cannot download the trace")?;
    drop(waiting);
    std::fs::write(&file, &content)
        .with_context(|| format!("cannot write the trace to {}", file.display()))?;
    let size = content.len() as u64;
    if format == OutputFormat::Table {
        let size = size_text(size);
        return Ok(output::print_line(format_args!(
            "wrote {} ({size}); open it in https://ui.perfetto.dev",
            file.display()
        ))?);
    }
    let written = json!({
        "session_id": session_id,
        "destination": file.display().to_string(),
        "file_size_bytes": size,
    });
    FILE.print_one(&written, format, now())
}

/// Returns the file in the current directory to which the trace of a session is written.
fn default_file(session_id: &str) -> PathBuf {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let name: String = session_id
        .chars()
        .map(|c| if is_safe(c) { c } else { '_' })
        .collect();
    PathBuf::from(format!("{name}.pftrace"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_is_written_into_the_current_directory() {
        for (id, file) in [
            ("s-1", "s-1.pftrace"),
            ("../s:1", "___s_1.pftrace"),
            ("/etc/x", "_etc_x.pftrace"),
        ] {
            assert_eq!(default_file(id), PathBuf::from(file));
        }
    }
}
