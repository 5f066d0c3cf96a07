//! Finds the checkpoints that match a filter.

use anyhow::Result;
use tinkers::RestClient;
use tinkers::rest::{Checkpoint, CheckpointFilter};

use super::listing::{self, LARGEST_PAGE_OF_CHECKPOINTS, Listed, page_size};
use super::table::{Table, field};
use crate::args::FilterArgs;

pub(super) const CHECKPOINTS: Table = Table {
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
    ],
    columns: &[
        columns::ID,
        columns::TYPE,
        columns::SIZE,
        columns::PUBLIC,
        columns::CREATED,
        columns::EXPIRES,
        columns::PATH,
    ],
};

/// The columns that lists and descriptions of checkpoints share.
pub(super) mod columns {
    use super::super::cells;
    use super::super::table::{Column, column};

    pub(crate) const ID: Column = column("id", "Checkpoint ID", |row| {
        cells::text(row, "checkpoint_id")
    })
    .whole();
    pub(crate) const TYPE: Column =
        column("type", "Type", |row| cells::text(row, "checkpoint_type"));
    pub(crate) const SIZE: Column = column("size", "Size", |row| cells::bytes(row, "size_bytes"));
    pub(crate) const PUBLIC: Column =
        column("public", "Public", |row| cells::yes_no(row, "public"));
    pub(crate) const CREATED: Column = column("created", "Created", |row| cells::age(row, "time"));
    pub(crate) const EXPIRES: Column =
        column("expires", "Expires", |row| cells::expiry(row, "expires_at"));
    pub(crate) const PATH: Column =
        column("path", "Path", |row| cells::text(row, "tinker_path")).whole();
}

/// Finds the checkpoints that match a filter, up to a limit.
pub(super) async fn find(
    client: &RestClient,
    filter: &FilterArgs,
    limit: Option<usize>,
) -> Result<Listed<Checkpoint>> {
    let keeps = |checkpoint: &Checkpoint| matches(filter, checkpoint);
    let Some(run_id) = &filter.run_id else {
        // With a condition, one small page would rarely contain enough checkpoints.
        let shown = limit.filter(|_| filter.matches_all_of_a_run());
        let page = page_size(shown, LARGEST_PAGE_OF_CHECKPOINTS);
        let all = client.list_user_checkpoints().page_size(page).stream();
        return listing::read(all, limit, CHECKPOINTS.noun, keeps).await;
    };
    let mut items = client.list_checkpoints(run_id).await?;
    items.retain(keeps);
    let has_more = limit.is_some_and(|limit| items.len() > limit);
    items.truncate(limit.unwrap_or(usize::MAX));
    Ok(Listed { items, has_more })
}

/// Returns whether a checkpoint matches all conditions of a filter but the run.
fn matches(args: &FilterArgs, checkpoint: &Checkpoint) -> bool {
    let mut filter = CheckpointFilter::new();
    if let Some(kind) = args.kind {
        filter = filter.kind(kind);
    }
    if let Some(time) = args.before {
        filter = filter.saved_before(time);
    }
    if let Some(time) = args.after {
        filter = filter.saved_after(time);
    }
    let name = checkpoint.checkpoint_id.rsplit('/').next();
    let name = name.unwrap_or_default();
    let is_named = args.pattern.as_ref();
    filter.matches(checkpoint) && is_named.is_none_or(|pattern| pattern.matches(name))
}
