//! Sessions: creation, heartbeat, end.

use std::collections::BTreeMap;

use serde_json::json;
use tinkers_core::Moment;
use tinkers_wire::{CreateSession, FinishSession, Heartbeat, SessionCreated, SessionInfo};

use super::agenda::Alarm;
use super::operation::Origin;
use super::{OperationId, Protocol, Stamp};
use crate::http::Answer;
use crate::read::{Digest, Page, Refusal};

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    /// Sessions are listed in this order, the newest first.
    pub(super) number: u64,
    last_beat: Moment,
    ended: Option<&'static str>,
    user_metadata: BTreeMap<String, String>,
    display_name: Option<String>,
    pub(super) project_id: Option<String>,
    /// Creations by `model_seq_id`.
    pub(super) models: BTreeMap<u64, (Digest, OperationId)>,
    pub(super) model_ids: Vec<String>,
    /// Creations by `sampling_session_seq_id`.
    pub(super) samplers: BTreeMap<u64, Digest>,
    pub(super) sampler_ids: Vec<String>,
}

impl Protocol {
    /// `POST /create_session`.
    pub(super) fn create_session(&mut self, at: Stamp, body: CreateSession) -> Answer {
        let session_id = self.ids.next_session();
        let session = Session {
            number: self.sessions.len() as u64,
            last_beat: at.now,
            ended: None,
            user_metadata: body.user_metadata,
            display_name: body.display_name,
            project_id: body.project_id,
            models: BTreeMap::new(),
            model_ids: Vec::new(),
            samplers: BTreeMap::new(),
            sampler_ids: Vec::new(),
        };
        self.sessions.insert(session_id.clone(), session);
        let due = at.now.after(self.config.session_expiry);
        self.agenda.add(due, Alarm::Session(session_id.clone()));
        self.config.dialect.created(&SessionCreated {
            session_id,
            info_message: None,
            warning_message: None,
            error_message: None,
        })
    }

    /// `POST /session_heartbeat`.
    pub(super) fn heartbeat(&mut self, at: Stamp, body: &Heartbeat) -> Result<Answer, Refusal> {
        self.live_session(&body.session_id)?.last_beat = at.now;
        Ok(Answer::ok(&json!({ "type": "session_heartbeat" })))
    }

    /// `POST /sessions/{id}/finish`. The first reason stays; finishing again changes nothing.
    pub(super) fn finish_session(
        &mut self,
        at: Stamp,
        id: &str,
        _body: &FinishSession,
    ) -> Result<Answer, Refusal> {
        let session = self.sessions.get(id).ok_or_else(|| unknown(id))?;
        if session.ended.is_none() {
            self.end_session(at, id, "it was finished");
        }
        Ok(Answer::ok(&json!({})))
    }

    /// `GET /sessions`, the newest first.
    pub(super) fn list_sessions(&self, page: Page) -> Answer {
        let mut all: Vec<(&u64, &String)> = self
            .sessions
            .iter()
            .map(|(id, session)| (&session.number, id))
            .collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        let ids: Vec<&String> = page.of(&all).iter().map(|(_, id)| *id).collect();
        Answer::ok(&json!({ "sessions": ids }))
    }

    /// `GET /sessions/{id}`, also of one that has ended.
    pub(super) fn session_info(&self, id: &str) -> Result<Answer, Refusal> {
        let session = self.sessions.get(id).ok_or_else(|| unknown(id))?;
        Ok(Answer::ok(&SessionInfo {
            training_run_ids: session.model_ids.clone(),
            sampler_ids: session.sampler_ids.clone(),
            user_metadata: Some(session.user_metadata.clone()),
            display_name: session.display_name.clone(),
        }))
    }

    /// A session that has not ended.
    pub(super) fn live_session(&mut self, id: &str) -> Result<&mut Session, Refusal> {
        let session = self.sessions.get_mut(id).ok_or_else(|| unknown(id))?;
        match session.ended {
            None => Ok(session),
            Some(how) => Err(Refusal::gone(format!(
                "session {id} has ended: {how}; create a new one"
            ))),
        }
    }

    /// A session may have gone too long without a heartbeat.
    pub(super) fn session_is_due(&mut self, at: Stamp, id: &str) {
        let expiry = self.config.session_expiry;
        let Ok(session) = self.live_session(id) else {
            return;
        };
        let due = session.last_beat.after(expiry);
        if due > at.now {
            self.agenda.add(due, Alarm::Session(id.to_owned()));
            return;
        }
        tracing::info!(session = id, "a session went too long without a heartbeat");
        self.end_session(at, id, "it went too long without a heartbeat");
    }

    /// Ends a session: its models are unloaded, its snapshots dropped, what has not started fails.
    pub(super) fn end_session(&mut self, at: Stamp, id: &str, how: &'static str) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        session.ended = Some(how);
        let models = session.model_ids.clone();
        let samplers = session.sampler_ids.clone();
        let reason = format!("session {id} has ended: {how}");
        for model in &models {
            self.retire_model(at, model, &reason);
        }
        let sampling = self.operations.iter().filter_map(|(id, operation)| {
            let Origin::Sampler(sampler, _) = &operation.origin else {
                return None;
            };
            samplers.contains(sampler).then_some(*id)
        });
        for operation in sampling.collect::<Vec<_>>() {
            self.cancel(operation, &reason);
        }
        for sampler in samplers {
            self.end_sampler(&sampler, &reason);
        }
    }
}

fn unknown(id: &str) -> Refusal {
    Refusal::not_found(format!("no session {id:?} on this server"))
}
