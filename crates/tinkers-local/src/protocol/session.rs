//! The creation, heartbeats and end of sessions.

use serde_json::json;
use tinkers_wire::{CreateSession, FinishSession, Heartbeat, SessionCreated};

use super::state::agenda::Alarm;
use super::state::operations::Origin;
use super::{Protocol, Stamp};
use crate::access::Owner;
use crate::engine::CheckpointRecord;
use crate::http::LazyResponse;
use crate::read::{Page, Refusal};

impl Protocol {
    /// Handles `POST /create_session`, which creates a session and returns its id.
    pub(super) fn create_session(
        &mut self,
        at: Stamp,
        owner: &Owner,
        body: CreateSession,
    ) -> LazyResponse {
        let session_id = self.sessions.create(at.now, owner.clone(), body);
        let created_at = CheckpointRecord::seconds(at.wall);
        self.sessions.set_created_at(&session_id, created_at);
        let due = at.now.after(self.config.session_expiry);
        self.agenda.add(due, Alarm::Session(session_id.clone()));
        self.config.dialect.created(&SessionCreated {
            session_id,
            info_message: None,
            warning_message: None,
            error_message: None,
        })
    }

    /// Handles `POST /session_heartbeat`, which postpones the expiry of a session.
    pub(super) fn heartbeat(
        &mut self,
        at: Stamp,
        body: &Heartbeat,
    ) -> Result<LazyResponse, Refusal> {
        self.sessions.heartbeat(at.now, &body.session_id)?;
        Ok(LazyResponse::ok(&json!({ "type": "session_heartbeat" })))
    }

    /// Handles `POST /sessions/{id}/finish`, which ends a session. Has no effect on a session that has already ended.
    pub(super) fn finish_session(
        &mut self,
        at: Stamp,
        id: &str,
        body: &FinishSession,
    ) -> Result<LazyResponse, Refusal> {
        if !self.sessions.has_ended(id)? {
            self.sessions.set_finished(id, body);
            self.end_session(at, id, "it was finished");
        }
        Ok(LazyResponse::ok(&json!({})))
    }

    /// Handles `GET /sessions`: lists the sessions of an owner, the newest session first.
    pub(super) fn list_sessions(&self, owner: &Owner, page: Page) -> LazyResponse {
        let all = self.sessions.newest_first(owner);
        LazyResponse::ok(&json!({ "sessions": page.of(&all) }))
    }

    /// Handles `GET /sessions/{id}`: describes a session, even if it has ended.
    pub(super) fn session_info(&self, id: &str) -> Result<LazyResponse, Refusal> {
        Ok(LazyResponse::ok(&self.sessions.info(id)?))
    }

    /// Ends a session if the server has received no heartbeat for too long. Called at the time for which its expiry was planned.
    pub(super) fn session_is_due(&mut self, at: Stamp, id: &str) {
        let Some(due) = self.sessions.expires(id, self.config.session_expiry) else {
            return;
        };
        if due > at.now {
            self.agenda.add(due, Alarm::Session(id.to_owned()));
            return;
        }
        tracing::info!(session = id, "a session went too long without a heartbeat");
        self.end_session(at, id, "it went too long without a heartbeat");
    }

    /// Ends a session: unloads its models, cancels its running operations, drops the copies of weights in memory that its samplers
    /// use, and fails its requests that have not started.
    pub(super) fn end_session(&mut self, at: Stamp, id: &str, how: &'static str) {
        let Some((models, samplers)) = self.sessions.end(id, how) else {
            return;
        };
        let reason = format!("session {id} has ended: {how}");
        for model in &models {
            self.retire_model(at, model, &reason);
        }
        let samples = self.operations.ids_where(|operation| {
            matches!(operation.origin(), Origin::Sampler(sampler, _) if samplers.contains(sampler))
        });
        for operation in samples {
            self.cancel(operation, &reason);
        }
        for sampler in samplers {
            self.end_sampler(&sampler, &reason);
        }
    }
}
