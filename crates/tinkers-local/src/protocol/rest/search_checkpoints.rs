//! The search for checkpoints.

use serde_json::json;
use tinkers_wire::{CheckpointSearch, CheckpointSearchPage, SearchCursor};

use super::finds_own;
use crate::access::Owner;
use crate::engine::CheckpointRecord;
use crate::http::LazyResponse;
use crate::protocol::Protocol;
use crate::protocol::listing::{date, listed};
use crate::read::Refusal;

impl Protocol {
    /// Handles `POST /checkpoints/search`: finds checkpoints of the caller's owner, the newest checkpoint first.
    pub(in crate::protocol) fn search_checkpoints(
        &self,
        owner: &Owner,
        body: &CheckpointSearch,
    ) -> Result<LazyResponse, Refusal> {
        body.validate()
            .map_err(|error| Refusal::invalid("", &error))?;
        let after = body.cursor.as_ref().map(position).transpose()?;
        let may_find = finds_own(&body.owner, owner);
        let records = self.checkpoints.iter().filter(|_| may_find);
        let mut found: Vec<(String, &CheckpointRecord)> = records
            .filter(|record| record.owner() == *owner && self.is_wanted(body, record))
            .map(|record| (date(record.saved_at), record))
            .collect();
        // Checkpoints of the same time are ordered by their paths, so that each has one position.
        found.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.path.cmp(&b.1.path)));
        if let Some((time, path)) = &after {
            found.retain(|(date, record)| {
                (date < time) || (date == time && record.path.as_str() > path.as_str())
            });
        }
        let limit = usize::try_from(body.limit).unwrap_or(usize::MAX);
        let page = &found[..limit.min(found.len())];
        let next = page.last().filter(|_| page.len() < found.len());
        let next = next.map(|(date, record)| {
            let path = record.path.as_str();
            SearchCursor::new(json!({ "last_created_at": date, "last_checkpoint_uuid": path }))
        });
        let checkpoints = page.iter().map(|(_, record)| listed(record)).collect();
        Ok(LazyResponse::ok(&CheckpointSearchPage::new(
            checkpoints,
            next,
        )))
    }

    fn is_wanted(&self, body: &CheckpointSearch, record: &CheckpointRecord) -> bool {
        let kind = body.checkpoint_type;
        let metadata = record.user_metadata.as_ref();
        let has = |(name, value): (&String, &String)| {
            metadata.is_some_and(|metadata| metadata.get(name) == Some(value))
        };
        kind.is_none_or(|kind| record.path.kind() == Some(kind))
            && body
                .base_models
                .as_ref()
                .is_none_or(|names| names.contains(&record.base_model))
            && body.user_metadata.iter().all(has)
            && body.project_ids.as_ref().is_none_or(|ids| {
                let project = self.project_of_checkpoint(record);
                project.is_some_and(|project| ids.iter().any(|id| id == project))
            })
    }
}

/// Returns the time and the path of the last checkpoint of the page before.
fn position(cursor: &SearchCursor) -> Result<(String, String), Refusal> {
    let field = |name: &str| cursor.content().get(name)?.as_str().map(str::to_owned);
    match (field("last_created_at"), field("last_checkpoint_uuid")) {
        (Some(time), Some(path)) => Ok((time, path)),
        _ => Err(Refusal::field(
            "cursor",
            "expected the next_cursor of the page before",
        )),
    }
}
