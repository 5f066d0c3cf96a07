//! Management of sessions: search, projects and traces.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::nulls::null_is_default;
use crate::search::{check_limit, default_limit};
use crate::{FinishReason, InvalidInput, OwnerFilter, SearchCursor, SignedUrl, lenient};

/// `PUT /sessions/{id}/project`: moves a session to a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AssignSessionProject {
    /// The id of the project.
    pub project_id: String,
}

/// The state of a trace export, the response to `GET /sessions/{id}/trace_export`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct TraceExport {
    /// The state: `pending`, `ready`, `failed`, or one that this version does not know.
    pub status: String,
    /// The address of the trace, a file in the format of Perfetto. Sent when the trace is ready, and valid for about an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<SignedUrl>,
    /// The reason of the failure, if the export failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl TraceExport {
    /// Creates the state of an export whose trace is ready.
    pub fn ready(url: SignedUrl) -> Self {
        Self {
            status: "ready".to_owned(),
            url: Some(url),
            error: None,
        }
    }

    /// Creates the state of a failed export.
    pub fn failed(error: impl Into<String>) -> Self {
        Self {
            status: "failed".to_owned(),
            url: None,
            error: Some(error.into()),
        }
    }
}

/// `POST /sessions/search`: searches sessions. All conditions must hold, except that a session matches if it has the id `session_id` or the
/// display name `display_name`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SessionSearch {
    /// The exact id of the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The projects of the sessions; all projects that the user may list if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_ids: Option<Vec<String>>,
    /// Pairs that the metadata of the sessions must contain.
    #[serde(default, deserialize_with = "null_is_default")]
    pub user_metadata: BTreeMap<String, String>,
    /// Words that must occur in the display name, in any case of letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// The owners of the sessions.
    #[serde(default)]
    pub owner: OwnerFilter,
    /// The states of the sessions, of which one must match; any state if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statuses: Option<Vec<SessionStatusFilter>>,
    /// The number of sessions per page, 1 to 200.
    #[serde(default = "default_limit")]
    pub limit: u64,
    /// The cursor of the previous page, or `None` for the first page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<SearchCursor>,
}

impl Default for SessionSearch {
    fn default() -> Self {
        Self {
            session_id: None,
            project_ids: None,
            user_metadata: BTreeMap::new(),
            display_name: None,
            owner: OwnerFilter::Own,
            statuses: None,
            limit: default_limit(),
            cursor: None,
        }
    }
}

impl SessionSearch {
    /// Checks the conditions.
    ///
    /// # Errors
    /// The error names the field: `limit`, `display_name`, `owner.owner_urns` or `statuses`.
    pub fn validate(&self) -> Result<(), InvalidInput> {
        check_limit(self.limit)?;
        self.owner.validate()?;
        if self.display_name.as_deref() == Some("") {
            return Err(InvalidInput::new("display_name", "at least one character"));
        }
        let has_empty = |filter: &SessionStatusFilter| matches!(filter, SessionStatusFilter::ClientFinished { reasons: Some(reasons) } if reasons.is_empty());
        match &self.statuses {
            Some(statuses) if statuses.is_empty() => Err(InvalidInput::new(
                "statuses",
                "at least one state, or none given",
            )),
            Some(statuses) if statuses.iter().any(has_empty) => Err(InvalidInput::new(
                "statuses.reasons",
                "at least one reason, or none given",
            )),
            _ => Ok(()),
        }
    }
}

/// A condition on the state of a session in a search.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum SessionStatusFilter {
    /// The session is running.
    Active,
    /// The session was cancelled.
    Cancelled,
    /// The session failed.
    Failed,
    /// The client finished the session.
    ClientFinished {
        /// The reasons that the client may have given, such as `success`; any reason if `None`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reasons: Option<Vec<String>>,
    },
}

/// The state of a session in the result of a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum SessionStatus {
    /// The session is running.
    Active,
    /// The session was cancelled.
    Cancelled {
        /// An explanation.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
    /// The session failed.
    Failed {
        /// Who caused the failure: `user` or `internal`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        category: Option<String>,
        /// The error message.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
        /// The part of the session that failed, if this version knows its kind.
        #[serde(
            default,
            deserialize_with = "lenient::optional",
            skip_serializing_if = "Option::is_none"
        )]
        reason: Option<FailedPart>,
    },
    /// The client finished the session.
    ClientFinished {
        /// The reason that the client gave, if this version knows it.
        #[serde(
            default,
            deserialize_with = "lenient::optional",
            skip_serializing_if = "Option::is_none"
        )]
        reason: Option<FinishReason>,
        /// The explanation that the client gave.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
    /// A state that this version does not know.
    #[serde(other)]
    Unknown,
}

/// The part of a session that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailedPart {
    /// A request.
    Request {
        /// The id of the request.
        request_id: String,
        /// The kind of the request.
        request_type: String,
    },
    /// A training run.
    TrainingRun {
        /// The id of the training run.
        training_run_id: String,
    },
    /// A sampler.
    SamplingSession {
        /// The id of the sampler.
        sampling_session_id: String,
    },
}

/// A session in the result of a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct SessionSummary {
    /// The id of the session.
    pub session_id: String,
    /// The time at which the session was created, an RFC 3339 string.
    #[serde(default, deserialize_with = "null_is_default")]
    pub created_at: String,
    /// The URN of the owner.
    #[serde(default, deserialize_with = "null_is_default")]
    pub owner: String,
    /// The id of the project.
    #[serde(default, deserialize_with = "null_is_default")]
    pub project_id: String,
    /// The state of the session. `None` if it has not finished and is not known to be running.
    #[serde(
        default,
        deserialize_with = "lenient::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub status: Option<SessionStatus>,
    /// The number of checkpoints of the session.
    #[serde(default, deserialize_with = "lenient::count")]
    pub checkpoints_count: u64,
    /// The display name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Metadata of the session, chosen by the caller.
    #[serde(
        default,
        deserialize_with = "lenient::optional_metadata",
        skip_serializing_if = "Option::is_none"
    )]
    pub user_metadata: Option<BTreeMap<String, String>>,
    /// The size of the checkpoints of the session in bytes, if the server sends it.
    #[serde(
        default,
        deserialize_with = "lenient::optional_count",
        skip_serializing_if = "Option::is_none"
    )]
    pub checkpoint_storage_bytes: Option<u64>,
}

impl SessionSummary {
    /// Creates the summary of a session without checkpoints.
    pub fn new(session_id: impl Into<String>, created_at: impl Into<String>) -> Self {
        Self {
            session_id: session_id.into(),
            created_at: created_at.into(),
            owner: String::new(),
            project_id: String::new(),
            status: None,
            checkpoints_count: 0,
            display_name: None,
            user_metadata: None,
            checkpoint_storage_bytes: None,
        }
    }
}

/// A page of a search for sessions, the newest session first.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct SessionSearchPage {
    /// The sessions of this page.
    #[serde(default, deserialize_with = "null_is_default")]
    pub sessions: Vec<SessionSummary>,
    /// The cursor of the next page, or `None` at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<SearchCursor>,
}

impl SessionSearchPage {
    /// Creates a page.
    pub fn new(sessions: Vec<SessionSummary>, next_cursor: Option<SearchCursor>) -> Self {
        Self {
            sessions,
            next_cursor,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sessions_with_unknown_and_malformed_states_are_decoded() {
        let session =
            |status| json!({"session_id": "s", "checkpoints_count": "3", "status": status});
        let page = json!({
            "sessions": [
                session(json!({"type": "client_finished", "reason": {"type": "success"}})),
                session(json!({"type": "client_finished", "reason": {"type": "bored"}})),
                session(json!({"type": "failed", "reason": {"type": "training_run", "training_run_id": "r"}})),
                session(json!({"type": "hibernating", "since": 1})),
                session(json!("active")),
            ],
            "next_cursor": {"last_session_id": "s", "shard": 7},
            "surprise": true,
        });
        let page: SessionSearchPage = serde_json::from_value(page).unwrap();
        let states: Vec<_> = page.sessions.iter().map(|one| one.status.clone()).collect();
        let finished = |reason| SessionStatus::ClientFinished {
            reason,
            detail: None,
        };
        let failed = SessionStatus::Failed {
            category: None,
            message: None,
            reason: Some(FailedPart::TrainingRun {
                training_run_id: "r".to_owned(),
            }),
        };
        assert_eq!(
            states,
            [
                Some(finished(Some(FinishReason::Success))),
                Some(finished(None)),
                Some(failed),
                Some(SessionStatus::Unknown),
                None
            ]
        );
        assert_eq!(page.sessions[0].checkpoints_count, 3);
        let cursor = serde_json::to_value(page.next_cursor).unwrap();
        assert_eq!(cursor["shard"], 7, "the cursor is sent back unchanged");
    }

    #[test]
    fn search_sends_only_conditions_that_were_set() {
        let search = SessionSearch::default();
        let sent = serde_json::to_value(&search).unwrap();
        let expected = json!({"user_metadata": {}, "owner": {"type": "own"}, "limit": 50});
        assert_eq!(sent, expected);
        let limit = SessionSearch {
            limit: 201,
            ..search.clone()
        };
        assert_eq!(limit.validate().unwrap_err().field(), "limit");
        let owner = OwnerFilter::User {
            owner_urns: Vec::new(),
        };
        let owner = SessionSearch { owner, ..search };
        assert_eq!(owner.validate().unwrap_err().field(), "owner.owner_urns");
    }
}
