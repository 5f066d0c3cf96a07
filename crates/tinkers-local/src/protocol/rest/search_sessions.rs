//! The search for sessions.

use std::collections::BTreeMap;

use serde_json::json;
use tinkers_wire::{
    FinishReason, SearchCursor, SessionSearch, SessionSearchPage, SessionStatus,
    SessionStatusFilter, SessionSummary,
};

use super::finds_own;
use crate::access::Owner;
use crate::http::LazyResponse;
use crate::protocol::Protocol;
use crate::protocol::listing::date;
use crate::protocol::state::records::SessionRecord;
use crate::read::Refusal;

impl Protocol {
    /// Handles `POST /sessions/search`: finds sessions of the caller's owner, the newest session first.
    pub(in crate::protocol) fn search_sessions(
        &self,
        owner: &Owner,
        body: &SessionSearch,
    ) -> Result<LazyResponse, Refusal> {
        body.validate()
            .map_err(|error| Refusal::invalid("", &error))?;
        let mut sessions = self.sessions_of(owner).into_iter();
        if let Some(cursor) = &body.cursor {
            let last = cursor
                .content()
                .get("last_session_id")
                .and_then(|id| id.as_str());
            // Moves behind the last session of the page before.
            if !sessions.any(|(id, _)| Some(id) == last) {
                let reason = "expected the next_cursor of the page before";
                return Err(Refusal::field("cursor", reason));
            }
        }
        let may_find = finds_own(&body.owner, owner);
        let mut found = sessions
            .filter(|_| may_find)
            .map(|(id, session)| summary(id, session))
            .filter(|summary| is_wanted(body, summary));
        let limit = usize::try_from(body.limit).unwrap_or(usize::MAX);
        let mut page: Vec<SessionSummary> = found.by_ref().take(limit).collect();
        let next = page.last().filter(|_| found.next().is_some()).map(|last| {
            SearchCursor::new(json!({
                "last_created_at": last.created_at,
                "last_session_id": last.session_id,
            }))
        });
        self.count_checkpoints(&mut page);
        Ok(LazyResponse::ok(&SessionSearchPage::new(page, next)))
    }

    /// Adds the number and the size of the checkpoints of each session to its summary.
    fn count_checkpoints(&self, page: &mut [SessionSummary]) {
        let mut sizes: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for record in self.checkpoints.iter() {
            let run = record.path.run_id().unwrap_or_default();
            sizes.entry(run).or_default().push(record.size_bytes);
        }
        for summary in page {
            let runs = self.records.runs_of(&summary.session_id);
            let of_runs = runs.iter().filter_map(|run| sizes.get(run.as_str()));
            let of_session: Vec<u64> = of_runs.flatten().copied().collect();
            summary.checkpoints_count = of_session.len() as u64;
            summary.checkpoint_storage_bytes = Some(of_session.iter().sum());
        }
    }
}

/// Returns the summary of a session, without its checkpoints.
fn summary(id: &str, session: &SessionRecord) -> SessionSummary {
    let mut summary = SessionSummary::new(id, date(session.created_at));
    summary.owner = session.owner.name().to_owned();
    summary.project_id = session.project_id.clone().unwrap_or_default();
    summary.display_name = session.display_name.clone();
    summary.user_metadata = Some(session.user_metadata.clone());
    summary.status = session.status();
    summary
}

fn is_wanted(body: &SessionSearch, summary: &SessionSummary) -> bool {
    let metadata = summary.user_metadata.as_ref();
    let has = |(name, value): (&String, &String)| {
        metadata.is_some_and(|metadata| metadata.get(name) == Some(value))
    };
    let is_id = body.session_id.as_ref().map(|id| *id == summary.session_id);
    let is_named = body.display_name.as_ref().map(|words| {
        let name = summary
            .display_name
            .as_deref()
            .unwrap_or_default()
            .to_lowercase();
        words
            .to_lowercase()
            .split_whitespace()
            .all(|word| name.contains(word))
    });
    // Both are `None` if they are no conditions.
    let is_found = match (is_id, is_named) {
        (None, None) => true,
        (is_id, is_named) => is_id == Some(true) || is_named == Some(true),
    };
    is_found
        && body.user_metadata.iter().all(has)
        && body
            .project_ids
            .as_ref()
            .is_none_or(|ids| ids.contains(&summary.project_id))
        && body.statuses.as_ref().is_none_or(|filters| {
            filters
                .iter()
                .any(|filter| matches_status(filter, summary.status.as_ref()))
        })
}

fn matches_status(filter: &SessionStatusFilter, status: Option<&SessionStatus>) -> bool {
    match (filter, status) {
        (SessionStatusFilter::Active, Some(SessionStatus::Active))
        | (SessionStatusFilter::Cancelled, Some(SessionStatus::Cancelled { .. }))
        | (SessionStatusFilter::Failed, Some(SessionStatus::Failed { .. })) => true,
        (
            SessionStatusFilter::ClientFinished { reasons },
            Some(SessionStatus::ClientFinished { reason, .. }),
        ) => {
            let name = reason.map(FinishReason::name);
            let is_named = |names: &Vec<String>| names.iter().any(|other| Some(&**other) == name);
            reasons.as_ref().is_none_or(is_named)
        }
        _ => false,
    }
}
