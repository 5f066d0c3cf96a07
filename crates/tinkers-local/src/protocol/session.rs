//! The creation, heartbeats and end of sessions.

use std::cmp::Reverse;

use http::StatusCode;
use serde_json::json;
use tinkers_wire::{
    AssignSessionProject, CreateSession, FinishSession, Heartbeat, SessionCreated, SessionInfo,
};

use super::state::agenda::Alarm;
use super::state::operations::Origin;
use super::state::records::{AuditEvent, SessionEnd, SessionRecord};
use super::state::sessions;
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
        let session_id = loop {
            let id = self.sessions.fresh_id("session");
            // An earlier process could have used the same random bits.
            if self.records.sessions.get(&id).is_none() {
                break id;
            }
        };
        self.sessions.add(at.now, session_id.clone());
        let record = SessionRecord {
            number: self.records.next_session(),
            owner: owner.clone(),
            created_at: CheckpointRecord::seconds(at.wall),
            display_name: body.display_name,
            user_metadata: body.user_metadata,
            project_id: body.project_id,
            end: None,
        };
        self.records.sessions.insert(session_id.clone(), record);
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
        body: FinishSession,
    ) -> Result<LazyResponse, Refusal> {
        if self.known_session(id)?.end.is_none() {
            let end = SessionEnd::Finished(body.reason, body.detail);
            self.end_session(at, id, end);
        }
        Ok(LazyResponse::ok(&json!({})))
    }

    /// Handles `GET /sessions`: lists the sessions of an owner, the newest session first.
    pub(super) fn list_sessions(&self, owner: &Owner, page: Page) -> LazyResponse {
        let all = self.sessions_of(owner);
        let ids: Vec<&str> = page.of(&all).iter().map(|(id, _)| *id).collect();
        LazyResponse::ok(&json!({ "sessions": ids }))
    }

    /// Returns all sessions of an owner, the newest session first.
    pub(super) fn sessions_of(&self, owner: &Owner) -> Vec<(&str, &SessionRecord)> {
        let all = self.records.sessions.iter();
        let mut own: Vec<_> = all.filter(|(_, one)| one.owner == *owner).collect();
        own.sort_unstable_by_key(|(_, session)| Reverse(session.number));
        own
    }

    /// Handles `GET /sessions/{id}`: describes a session, even if it has ended.
    pub(super) fn session_info(&self, id: &str) -> Result<LazyResponse, Refusal> {
        let session = self.known_session(id)?;
        let mut info = SessionInfo::default();
        info.training_run_ids = self.records.runs_of(id);
        info.sampler_ids = self.records.samplers_of(id);
        info.user_metadata = Some(session.user_metadata.clone());
        info.display_name = session.display_name.clone();
        Ok(LazyResponse::ok(&info))
    }

    /// Handles `PUT /sessions/{id}/project`: moves a session, even one that has ended, to a project.
    pub(super) fn assign_project(
        &mut self,
        at: Stamp,
        owner: &Owner,
        id: &str,
        body: &AssignSessionProject,
    ) -> Result<LazyResponse, Refusal> {
        let project = &body.project_id;
        if project.is_empty() {
            let reason = "project_id: expected the id of a project";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, reason));
        }
        let session = self.records.sessions.change(id);
        let session = session.ok_or_else(|| sessions::unknown(id))?;
        let before = session.project_id.replace(project.clone());
        let details = json!({ "session_id": id, "project_id": project, "from": before });
        let event = AuditEvent::SessionProjectAssigned;
        self.records.log(at, owner, event, details);
        Ok(LazyResponse::ok(&json!({})))
    }

    /// Returns the record of a session, even if it has ended.
    pub(super) fn known_session(&self, id: &str) -> Result<&SessionRecord, Refusal> {
        let session = self.records.sessions.get(id);
        session.ok_or_else(|| sessions::unknown(id))
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
        self.end_session(at, id, SessionEnd::Expired);
    }

    /// Ends a session: unloads its models, cancels its running operations, drops the copies of weights in memory that its samplers
    /// use, and fails its requests that have not started.
    pub(super) fn end_session(&mut self, at: Stamp, id: &str, end: SessionEnd) {
        let how = end.how();
        let Some((models, samplers)) = self.sessions.end(id, how) else {
            return;
        };
        self.records.end_session(id, end);
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
