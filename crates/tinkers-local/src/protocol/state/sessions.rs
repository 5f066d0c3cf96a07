//! The sessions, with the ids of their models and samplers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tinkers_core::{Jitter, Timestamp};
use tinkers_wire::{
    CreateSession, FinishReason, FinishSession, SessionInfo, SessionStatus, SessionSummary, rfc3339,
};

use super::numbered::NumberedRequests;
use crate::access::Owner;
use crate::protocol::ids::OperationId;
use crate::read::{Digest, Refusal};

/// A session. Ended sessions are not deleted, because they are still listed.
#[derive(Debug)]
pub(crate) struct Session {
    number: u64,
    owner: Owner,
    /// The time of the creation, in seconds since the Unix epoch.
    created_at: f64,
    last_heartbeat: Timestamp,
    /// The reason why the session has ended. `None` if it has not ended.
    ended: Option<&'static str>,
    /// The reason that the client gave when it finished the session, with an explanation.
    finished: Option<(FinishReason, Option<String>)>,
    user_metadata: BTreeMap<String, String>,
    display_name: Option<String>,
    project_id: Option<String>,
    /// The operations that created models in this session, by `model_seq_id`.
    models: NumberedRequests<OperationId>,
    model_ids: Vec<String>,
    /// The requests that created samplers in this session, by `sampling_session_seq_id`.
    samplers: NumberedRequests<()>,
    sampler_ids: Vec<String>,
}

impl Session {
    /// Returns the operations that created models in this session, by `model_seq_id`.
    pub(crate) fn models(&self) -> &NumberedRequests<OperationId> {
        &self.models
    }

    /// Returns the requests that created samplers in this session, by `sampling_session_seq_id`.
    pub(crate) fn samplers(&self) -> &NumberedRequests<()> {
        &self.samplers
    }

    /// Adds a model to the session, with the operation that creates the model.
    pub(crate) fn add_model(
        &mut self,
        number: u64,
        digest: Digest,
        operation: OperationId,
        id: String,
    ) {
        self.models.insert(number, digest, operation);
        self.model_ids.push(id);
    }

    /// Records that a request to create a sampler used this `sampling_session_seq_id`.
    pub(crate) fn use_sampler_number(&mut self, number: u64, digest: Digest) {
        self.samplers.insert(number, digest, ());
    }

    /// Records that a sampler belongs to the session.
    pub(crate) fn add_sampler(&mut self, id: String) {
        self.sampler_ids.push(id);
    }
}

/// The sessions, by their ids.
#[derive(Debug)]
pub(crate) struct Sessions {
    random: Arc<dyn Jitter>,
    /// The number of sessions created so far, including those before a simulated restart. It makes session ids unique.
    created: u64,
    all: BTreeMap<String, Session>,
}

impl Sessions {
    /// Creates an empty collection. Session ids are generated with `random`.
    pub(crate) fn new(random: Arc<dyn Jitter>) -> Self {
        Self {
            random,
            created: 0,
            all: BTreeMap::new(),
        }
    }

    /// Creates a session of an owner and returns its id.
    pub(crate) fn create(&mut self, now: Timestamp, owner: Owner, body: CreateSession) -> String {
        let id = self.fresh_id("session");
        let session = Session {
            number: self.created,
            owner,
            created_at: 0.0,
            last_heartbeat: now,
            ended: None,
            finished: None,
            user_metadata: body.user_metadata,
            display_name: body.display_name,
            project_id: body.project_id,
            models: NumberedRequests::default(),
            model_ids: Vec::new(),
            samplers: NumberedRequests::default(),
            sampler_ids: Vec::new(),
        };
        self.all.insert(id.clone(), session);
        id
    }

    /// Returns a new id that begins with `prefix`, for a session or for a copied checkpoint.
    pub(crate) fn fresh_id(&mut self, prefix: &str) -> String {
        self.created += 1;
        // The counter makes the id unique in this process, even if random bits repeat.
        let random = self.random.bits() >> 16;
        format!("{prefix}-{random:012x}{:04x}", self.created)
    }

    /// Sets the time of the creation of a session, in seconds since the Unix epoch.
    pub(crate) fn set_created_at(&mut self, id: &str, seconds: f64) {
        if let Some(session) = self.all.get_mut(id) {
            session.created_at = seconds;
        }
    }

    /// Records why the client finished a session. Has no effect on a session that has ended.
    pub(crate) fn set_finished(&mut self, id: &str, body: &FinishSession) {
        if let Some(session) = self
            .all
            .get_mut(id)
            .filter(|session| session.ended.is_none())
        {
            session.finished = Some((body.reason, body.detail.clone()));
        }
    }

    /// Moves a session to a project, even if it has ended.
    ///
    /// # Errors
    ///
    /// If the session is unknown.
    pub(crate) fn assign_project(&mut self, id: &str, project: &str) -> Result<(), Refusal> {
        let session = self.all.get_mut(id).ok_or_else(|| unknown(id))?;
        session.project_id = Some(project.to_owned());
        Ok(())
    }

    /// Returns the summary of a session for a search, without its checkpoints.
    pub(crate) fn summary(&self, id: &str) -> Option<SessionSummary> {
        let session = self.all.get(id)?;
        let created = Duration::try_from_secs_f64(session.created_at).unwrap_or_default();
        let mut summary = SessionSummary::new(id, rfc3339(created));
        summary.owner = session.owner.name().to_owned();
        summary.project_id = session.project_id.clone().unwrap_or_default();
        summary.display_name = session.display_name.clone();
        summary.user_metadata = Some(session.user_metadata.clone());
        summary.status = match (&session.finished, session.ended) {
            (Some((reason, detail)), _) => Some(SessionStatus::ClientFinished {
                reason: Some(*reason),
                detail: detail.clone(),
            }),
            (None, None) => Some(SessionStatus::Active),
            // It went too long without a heartbeat, so it is neither finished nor known to be running.
            (None, Some(_)) => None,
        };
        Some(summary)
    }

    /// Returns the session with this id, if it has not ended.
    ///
    /// # Errors
    ///
    /// If the session is unknown or has ended.
    pub(crate) fn live(&self, id: &str) -> Result<&Session, Refusal> {
        let session = self.known(id)?;
        match session.ended {
            None => Ok(session),
            Some(how) => Err(Refusal::gone(format!(
                "session {id} has ended: {how}; create a new one"
            ))),
        }
    }

    /// Returns a mutable reference to the session with this id, if it has not ended.
    pub(crate) fn live_mut(&mut self, id: &str) -> Result<&mut Session, Refusal> {
        self.live(id)?;
        self.all.get_mut(id).ok_or_else(|| unknown(id))
    }

    fn known(&self, id: &str) -> Result<&Session, Refusal> {
        self.all.get(id).ok_or_else(|| unknown(id))
    }

    /// Records that a heartbeat of a session arrived at `now`, which postpones its expiry.
    pub(crate) fn heartbeat(&mut self, now: Timestamp, id: &str) -> Result<(), Refusal> {
        self.live_mut(id)?.last_heartbeat = now;
        Ok(())
    }

    /// Returns the time at which a session expires if no further heartbeat arrives, or `None` if the session has ended.
    pub(crate) fn expires(&self, id: &str, expiry: Duration) -> Option<Timestamp> {
        let session = self.live(id).ok()?;
        Some(session.last_heartbeat.after(expiry))
    }

    /// Returns whether a session has ended.
    ///
    /// # Errors
    ///
    /// If the session is unknown.
    pub(crate) fn has_ended(&self, id: &str) -> Result<bool, Refusal> {
        Ok(self.known(id)?.ended.is_some())
    }

    /// Ends a session for the reason `how`. Returns the ids of its models and the ids of its samplers, which the caller has to end
    /// too. Returns `None` if the session is unknown.
    pub(crate) fn end(
        &mut self,
        id: &str,
        how: &'static str,
    ) -> Option<(Vec<String>, Vec<String>)> {
        let session = self.all.get_mut(id)?;
        session.ended = Some(how);
        Some((session.model_ids.clone(), session.sampler_ids.clone()))
    }

    /// Returns the ids of the sessions that have not ended.
    pub(crate) fn live_ids(&self) -> Vec<String> {
        let live = self
            .all
            .iter()
            .filter(|(_, session)| session.ended.is_none());
        live.map(|(id, _)| id.clone()).collect()
    }

    /// Returns the ids of all sessions of an owner, the newest session first.
    pub(crate) fn newest_first(&self, owner: &Owner) -> Vec<&str> {
        let own = self.all.iter().filter(|(_, one)| one.owner == *owner);
        let mut all: Vec<(u64, &str)> = own
            .map(|(id, session)| (session.number, id.as_str()))
            .collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        all.into_iter().map(|(_, id)| id).collect()
    }

    /// Returns the description of a session, even if it has ended.
    ///
    /// # Errors
    ///
    /// If the session is unknown.
    pub(crate) fn info(&self, id: &str) -> Result<SessionInfo, Refusal> {
        let session = self.known(id)?;
        let mut info = SessionInfo::default();
        info.training_run_ids = session.model_ids.clone();
        info.sampler_ids = session.sampler_ids.clone();
        info.user_metadata = Some(session.user_metadata.clone());
        info.display_name = session.display_name.clone();
        Ok(info)
    }

    /// Returns the owner of a session. Returns `None` if the session is unknown.
    pub(crate) fn owner_of(&self, id: &str) -> Option<&Owner> {
        self.all.get(id).map(|session| &session.owner)
    }

    /// Returns the id of the project to which a session belongs, if any.
    pub(crate) fn project_of(&self, id: &str) -> Option<&str> {
        self.all.get(id)?.project_id.as_deref()
    }

    /// Deletes all sessions, for a simulated restart.
    pub(crate) fn clear(&mut self) {
        self.all.clear();
    }
}

pub(crate) fn unknown(id: &str) -> Refusal {
    Refusal::not_found(format!("no session {id:?} on this server"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinkers_core::FixedJitter;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::ORIGIN.after(Duration::from_secs(seconds))
    }

    fn body() -> CreateSession {
        serde_json::from_value(serde_json::json!({"sdk_version": "1", "tags": []})).unwrap()
    }

    #[test]
    fn session_ids_are_unique_without_random_bits_and_after_restart() {
        let mut sessions = Sessions::new(Arc::new(FixedJitter(0.5)));
        let first = sessions.create(at(0), Owner::default(), body());
        let second = sessions.create(at(0), Owner::default(), body());
        assert_eq!(sessions.newest_first(&Owner::default()), [&second, &first]);
        sessions.clear();
        let third = sessions.create(at(0), Owner::default(), body());
        assert!(third != first && third != second);
    }

    #[test]
    fn ended_session_is_listed_but_refuses_requests() {
        let mut sessions = Sessions::new(Arc::new(FixedJitter(0.5)));
        let id = sessions.create(at(0), Owner::default(), body());
        let session = sessions.live_mut(&id).unwrap();
        session.add_model(0, Digest::of("test", b""), OperationId(1), "m".to_owned());
        session.add_sampler("s".to_owned());
        let (models, samplers) = sessions.end(&id, "it was finished").unwrap();
        assert_eq!(
            (models, samplers),
            (vec!["m".to_owned()], vec!["s".to_owned()])
        );
        assert_eq!(sessions.live(&id).unwrap_err().status(), 410);
        assert_eq!(sessions.heartbeat(at(1), &id).unwrap_err().status(), 410);
        assert_eq!(sessions.expires(&id, Duration::ZERO), None);
        assert!(sessions.has_ended(&id).unwrap() && sessions.live_ids().is_empty());
        assert_eq!(sessions.info(&id).unwrap().training_run_ids, ["m"]);
        assert_eq!(sessions.has_ended("other").unwrap_err().status(), 404);
    }

    #[test]
    fn heartbeat_postpones_the_expiry_of_a_session() {
        let mut sessions = Sessions::new(Arc::new(FixedJitter(0.5)));
        let id = sessions.create(at(0), Owner::default(), body());
        let expiry = Duration::from_secs(10);
        assert_eq!(sessions.expires(&id, expiry), Some(at(10)));
        sessions.heartbeat(at(4), &id).unwrap();
        assert_eq!(sessions.expires(&id, expiry), Some(at(14)));
    }
}
