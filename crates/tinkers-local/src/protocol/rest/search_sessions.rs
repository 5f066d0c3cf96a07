//! The search for sessions.

use serde_json::json;
use tinkers_wire::{
    FinishReason, OwnerFilter, SearchCursor, SessionSearch, SessionSearchPage, SessionStatus,
    SessionStatusFilter, SessionSummary,
};

use crate::access::Owner;
use crate::http::LazyResponse;
use crate::protocol::Protocol;
use crate::read::Refusal;

impl Protocol {
    /// Handles `POST /sessions/search`: finds sessions of an owner, the newest session first.
    pub(in crate::protocol) fn search_sessions(
        &self,
        owner: &Owner,
        body: &SessionSearch,
    ) -> Result<LazyResponse, Refusal> {
        body.validate()
            .map_err(|error| Refusal::invalid("", &error))?;
        let mut ids = self.sessions.newest_first(owner).into_iter();
        if let Some(cursor) = &body.cursor {
            let last = cursor
                .content()
                .get("last_session_id")
                .and_then(|id| id.as_str());
            // Moves behind the last session of the page before.
            if !ids.any(|id| Some(id) == last) {
                let reason = "expected the next_cursor of the page before";
                return Err(Refusal::field("cursor", reason));
            }
        }
        let mut found = ids
            .filter_map(|id| self.sessions.summary(id))
            .filter(|summary| is_wanted(body, summary));
        let limit = usize::try_from(body.limit).unwrap_or(usize::MAX);
        let mut page: Vec<SessionSummary> = found.by_ref().take(limit).collect();
        let next = page.last().filter(|_| found.next().is_some()).map(|last| {
            SearchCursor::new(json!({
                "last_created_at": last.created_at,
                "last_session_id": last.session_id,
            }))
        });
        for summary in &mut page {
            self.count_checkpoints(summary);
        }
        Ok(LazyResponse::ok(&SessionSearchPage::new(page, next)))
    }

    /// Adds the number and the size of the checkpoints of a session to its summary.
    fn count_checkpoints(&self, summary: &mut SessionSummary) {
        let runs = self.sessions.info(&summary.session_id);
        let runs = runs.map(|info| info.training_run_ids).unwrap_or_default();
        let is_of_session = |run: &str| runs.iter().any(|id| id == run);
        let records = self.checkpoints.iter();
        let of_session = records.filter(|record| record.path.run_id().is_some_and(is_of_session));
        let sizes: Vec<u64> = of_session.map(|record| record.size_bytes).collect();
        summary.checkpoints_count = sizes.len() as u64;
        summary.checkpoint_storage_bytes = Some(sizes.iter().sum());
    }
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
    // Each of both is `None` if it is no condition.
    let is_found = match (is_id, is_named) {
        (None, None) => true,
        (is_id, is_named) => is_id == Some(true) || is_named == Some(true),
    };
    // A search finds only sessions of its own user, and no client knows the URN of a user.
    is_found
        && !matches!(body.owner, OwnerFilter::User { .. })
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
