//! The records of the server: what is known about sessions, training runs and samplers even after they have ended, the usage, and the
//! audit log. They survive a restart if the server has a [`RecordStore`](crate::RecordStore).

mod audit;
mod session;
mod table;
mod usage;

use serde_json::Value;

pub(crate) use self::audit::{AuditEvent, AuditRecord};
pub(crate) use self::session::{
    CheckpointChange, RunRecord, SamplerRecord, SessionEnd, SessionRecord,
};
pub(crate) use self::table::Table;
pub(crate) use self::usage::{HOUR, UsageRecord, Used, User, hour_key};
use crate::access::Owner;
use crate::engine::CheckpointRecord;
use crate::protocol::stamp::Stamp;
use crate::store::{Change, StoreError, StoredRecord};

/// The records of the server, by their kinds.
#[derive(Debug)]
pub(crate) struct Records {
    /// The number of the next session.
    next_session: u64,
    /// By session id.
    pub(crate) sessions: Table<SessionRecord>,
    /// By model id.
    pub(crate) runs: Table<RunRecord>,
    /// By sampler id.
    pub(crate) samplers: Table<SamplerRecord>,
    /// By path of the checkpoint.
    pub(crate) checkpoints: Table<CheckpointChange>,
    pub(crate) usage: Table<UsageRecord>,
    /// By the number of the entry, with leading zeros.
    pub(crate) audit: Table<AuditRecord>,
}

impl Default for Records {
    /// Creates records without a store.
    fn default() -> Self {
        Self::new(false)
    }
}

impl Records {
    fn new(is_stored: bool) -> Self {
        Self {
            next_session: 0,
            sessions: Table::new("sessions", is_stored),
            runs: Table::new("runs", is_stored),
            samplers: Table::new("samplers", is_stored),
            checkpoints: Table::new("checkpoints", is_stored),
            usage: Table::new("usage", is_stored),
            audit: Table::new("audit", is_stored),
        }
    }

    /// Returns the records that were read from a store. Changes of them are written to the store.
    ///
    /// # Errors
    ///
    /// If a record cannot be decoded, or belongs to a table that this version does not know.
    pub(crate) fn load(stored: Vec<StoredRecord>) -> Result<Self, StoreError> {
        let mut records = Self::new(true);
        for StoredRecord { table, key, value } in stored {
            match table.as_str() {
                "sessions" => records.sessions.load(key, &value)?,
                "runs" => records.runs.load(key, &value)?,
                "samplers" => records.samplers.load(key, &value)?,
                "checkpoints" => records.checkpoints.load(key, &value)?,
                "usage" => records.usage.load(key, &value)?,
                "audit" => records.audit.load(key, &value)?,
                _ => return Err(StoreError::Invalid(format!("unknown table {table:?}"))),
            }
        }
        let numbers = records.sessions.iter().map(|(_, session)| session.number);
        records.next_session = numbers.max().map_or(0, |last| last + 1);
        Ok(records)
    }

    /// Returns the number for a new session.
    pub(crate) fn next_session(&mut self) -> u64 {
        self.next_session += 1;
        self.next_session - 1
    }

    /// Returns the owner of a session, or `None` if the session is unknown.
    pub(crate) fn owner_of_session(&self, id: &str) -> Option<&Owner> {
        self.sessions.get(id).map(|session| &session.owner)
    }

    /// Returns the owner of a model, which is the owner of its session.
    pub(crate) fn owner_of_model(&self, id: &str) -> Option<&Owner> {
        self.owner_of_session(&self.runs.get(id)?.session)
    }

    /// Returns the owner of a sampler, which is the owner of its session.
    pub(crate) fn owner_of_sampler(&self, id: &str) -> Option<&Owner> {
        self.owner_of_session(&self.samplers.get(id)?.session)
    }

    /// Returns the project of a model, which is that of its session.
    pub(crate) fn project_of_model(&self, id: &str) -> Option<&str> {
        let session = self.sessions.get(&self.runs.get(id)?.session)?;
        session.project_id.as_deref()
    }

    /// Returns the ids of the models of a session, in the order of their numbers.
    pub(crate) fn runs_of(&self, session: &str) -> Vec<String> {
        let prefix = format!("{session}:");
        let runs = self.runs.with_prefix(&prefix);
        in_order(runs.map(|(id, run)| (run.number, id.to_owned())))
    }

    /// Returns the ids of the samplers of a session, in the order of their numbers.
    pub(crate) fn samplers_of(&self, session: &str) -> Vec<String> {
        let prefix = format!("{session}:");
        let samplers = self.samplers.with_prefix(&prefix);
        in_order(samplers.map(|(id, sampler)| (sampler.number, id.to_owned())))
    }

    /// Records the end of a session, unless it has ended before.
    pub(crate) fn end_session(&mut self, id: &str, end: SessionEnd) {
        let has_ended = self.sessions.get(id).is_none_or(|one| one.end.is_some());
        if !has_ended && let Some(session) = self.sessions.change(id) {
            session.end = Some(end);
        }
    }

    /// Records the end of all sessions, because the server was started again.
    pub(crate) fn end_all_sessions(&mut self) {
        let live = self.sessions.iter().filter(|(_, one)| one.end.is_none());
        let live: Vec<String> = live.map(|(id, _)| id.to_owned()).collect();
        for id in live {
            self.end_session(&id, SessionEnd::Restarted);
        }
    }

    /// Adds to the usage of the current hour.
    pub(crate) fn add_usage(&mut self, at: Stamp, user: &User, used: Used, count: u64) {
        let seconds = CheckpointRecord::seconds(at.wall);
        usage::add(&mut self.usage, seconds, user, used, count);
    }

    /// Adds an entry to the audit log, and deletes the oldest entry if the log is full.
    pub(crate) fn log(&mut self, at: Stamp, owner: &Owner, event: AuditEvent, details: Value) {
        let last = self.audit.iter().next_back();
        let last = last.and_then(|(key, _)| key.parse::<u64>().ok());
        let number = last.map_or(0, |last| last.saturating_add(1));
        let record = AuditRecord {
            seconds: CheckpointRecord::seconds(at.wall),
            owner: owner.clone(),
            event,
            details,
        };
        // Numbers of a fixed width are ordered as texts.
        self.audit.insert(format!("{number:020}"), record);
        let oldest = number.checked_sub(audit::KEPT_ENTRIES as u64);
        if let Some(oldest) = oldest {
            self.audit.remove(&format!("{oldest:020}"));
        }
    }

    /// Returns whether there are changes that may be written later.
    pub(crate) fn has_later_changes(&self) -> bool {
        self.runs.has_later_changes() || self.usage.has_later_changes()
    }

    /// Makes the changes that may be written later part of the next changes.
    pub(crate) fn expedite(&mut self) {
        self.runs.expedite();
        self.usage.expedite();
    }

    /// Returns the changes that have to be written before the responses of the current transition. Returns none if there is no store.
    pub(crate) fn take_changes(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        self.sessions.take_changes(&mut changes);
        self.runs.take_changes(&mut changes);
        self.samplers.take_changes(&mut changes);
        self.checkpoints.take_changes(&mut changes);
        self.usage.take_changes(&mut changes);
        self.audit.take_changes(&mut changes);
        changes
    }
}

fn in_order(numbered: impl Iterator<Item = (u64, String)>) -> Vec<String> {
    let mut all: Vec<(u64, String)> = numbered.collect();
    all.sort();
    all.into_iter().map(|(_, id)| id).collect()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use tinkers_core::Timestamp;

    use super::*;

    #[test]
    fn full_audit_log_drops_its_oldest_entry() {
        let mut records = Records::default();
        let at = Stamp {
            now: Timestamp::ORIGIN,
            wall: SystemTime::UNIX_EPOCH,
        };
        for number in 0..=audit::KEPT_ENTRIES {
            let details = Value::from(number);
            let event = AuditEvent::CheckpointSaved;
            records.log(at, &Owner::default(), event, details);
        }
        let kept: Vec<&Value> = records.audit.iter().map(|(_, one)| &one.details).collect();
        assert_eq!(kept.len(), audit::KEPT_ENTRIES);
        assert_eq!(kept[0], &Value::from(1));
    }
}
