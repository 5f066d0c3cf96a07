//! The sessions, with the ids of their models and samplers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tinkers_core::{Jitter, Timestamp};

use super::numbered::NumberedRequests;
use crate::protocol::ids::OperationId;
use crate::read::{Digest, Refusal};

/// The live part of a session: its models and samplers, and its last heartbeat. Ended sessions are not deleted, so that later requests
/// to them can be refused with a reason.
#[derive(Debug)]
pub(crate) struct Session {
    last_heartbeat: Timestamp,
    /// The reason why the session has ended. `None` if it has not ended.
    ended: Option<&'static str>,
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

    /// Adds a session.
    pub(crate) fn add(&mut self, now: Timestamp, id: String) {
        let session = Session {
            last_heartbeat: now,
            ended: None,
            models: NumberedRequests::default(),
            model_ids: Vec::new(),
            samplers: NumberedRequests::default(),
            sampler_ids: Vec::new(),
        };
        self.all.insert(id, session);
    }

    /// Returns a new id that begins with `prefix`, for a session or for a copied checkpoint.
    pub(crate) fn fresh_id(&mut self, prefix: &str) -> String {
        self.created += 1;
        // The counter makes the id unique in this process, even if random bits repeat.
        let random = self.random.bits() >> 16;
        format!("{prefix}-{random:012x}{:04x}", self.created)
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

    fn create(sessions: &mut Sessions) -> String {
        let id = sessions.fresh_id("session");
        sessions.add(at(0), id.clone());
        id
    }

    #[test]
    fn session_ids_are_unique_without_random_bits_and_after_restart() {
        let mut sessions = Sessions::new(Arc::new(FixedJitter(0.5)));
        let first = create(&mut sessions);
        let second = create(&mut sessions);
        assert_ne!(first, second);
        sessions.clear();
        let third = create(&mut sessions);
        assert!(third != first && third != second);
    }

    #[test]
    fn ended_session_refuses_requests() {
        let mut sessions = Sessions::new(Arc::new(FixedJitter(0.5)));
        let id = create(&mut sessions);
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
        assert!(sessions.live_ids().is_empty());
        assert_eq!(sessions.live("other").unwrap_err().status(), 404);
    }

    #[test]
    fn heartbeat_postpones_the_expiry_of_a_session() {
        let mut sessions = Sessions::new(Arc::new(FixedJitter(0.5)));
        let id = create(&mut sessions);
        let expiry = Duration::from_secs(10);
        assert_eq!(sessions.expires(&id, expiry), Some(at(10)));
        sessions.heartbeat(at(4), &id).unwrap();
        assert_eq!(sessions.expires(&id, expiry), Some(at(14)));
    }
}
