//! The checkpoints on durable storage, with the running saves and deletions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tinkers_core::Timestamp;
use tinkers_wire::TinkerPath;

use super::agenda::{Agenda, Alarm};
use super::records::CheckpointChange;
use crate::engine::CheckpointRecord;
use crate::protocol::stamp::Stamp;
use crate::read::Refusal;

/// The checkpoints of the server, by their paths, and the saves and deletions that are in progress.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    records: BTreeMap<TinkerPath, CheckpointRecord>,
    /// For each path, the number of accepted saves to this path that have not ended.
    saving: BTreeMap<TinkerPath, usize>,
    /// The paths of the checkpoints that the engine is deleting.
    deleting: BTreeSet<TinkerPath>,
    /// The times for which the deletion of expired checkpoints is planned in the agenda, at most one for each checkpoint.
    alarms: BTreeMap<TinkerPath, Timestamp>,
    /// The latest known date, in seconds since the Unix epoch. Checkpoints that had expired by then are not served, even if they are not
    /// deleted yet.
    wall_seconds: f64,
}

impl Checkpoints {
    /// Sets the current date, by which expired checkpoints are recognized.
    pub(crate) fn set_date(&mut self, at: Stamp) {
        self.wall_seconds = CheckpointRecord::seconds(at.wall);
    }

    /// Adds a checkpoint that the engine has stored durably, and plans its deletion at the time of its expiry.
    pub(crate) fn insert(&mut self, agenda: &mut Agenda, at: Stamp, mut record: CheckpointRecord) {
        record.path = canonical(&record.path);
        let path = record.path.clone();
        self.records.insert(path.clone(), record);
        self.plan_expiry(agenda, at, &path);
    }

    /// Plans the deletion of a checkpoint at the time of its expiry, if it expires. Replaces the plan that was made before.
    fn plan_expiry(&mut self, agenda: &mut Agenda, at: Stamp, path: &TinkerPath) {
        self.set_date(at);
        self.cancel_expiry(agenda, path);
        let due = self.records.get(path).and_then(|one| expires(at, one));
        if let Some(due) = due {
            agenda.add(due, Alarm::Checkpoint(path.clone()));
            self.alarms.insert(path.clone(), due);
        }
    }

    fn cancel_expiry(&mut self, agenda: &mut Agenda, path: &TinkerPath) {
        if let Some(planned) = self.alarms.remove(path) {
            agenda.remove(planned, Alarm::Checkpoint(path.clone()));
        }
    }

    /// Returns the metadata of the checkpoint at this path.
    ///
    /// # Errors
    ///
    /// If there is no checkpoint at this path, or if it has expired.
    pub(crate) fn get(&self, path: &TinkerPath) -> Result<&CheckpointRecord, Refusal> {
        let canonical = canonical(path);
        let record = self.records.get(&canonical);
        record.filter(|one| !self.has_expired(one)).ok_or_else(|| {
            if !self.is_saving(&canonical) {
                return unknown(path);
            }
            let reason = format!("{path} is still being saved; wait for the result of its save");
            Refusal::not_found(reason)
        })
    }

    /// Returns the metadata of all checkpoints that have not expired, ordered by their paths.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &CheckpointRecord> {
        let all = self.records.values();
        all.filter(|record| !self.has_expired(record))
    }

    fn has_expired(&self, record: &CheckpointRecord) -> bool {
        let expires_at = record.expires_at;
        expires_at.is_some_and(|seconds| seconds <= self.wall_seconds)
    }

    fn is_saving(&self, path: &TinkerPath) -> bool {
        self.saving.contains_key(path)
    }

    /// Returns whether there is a checkpoint or a running save at a path.
    pub(crate) fn is_in_use(&self, path: &TinkerPath) -> bool {
        self.records.contains_key(path) || self.is_saving(path)
    }

    /// Begins a save to `path`. Until the save ends, the checkpoint at this path cannot be deleted.
    ///
    /// # Errors
    ///
    /// If the checkpoint is being deleted: the engine could do the save and the deletion in either order.
    pub(crate) fn begin_save(&mut self, path: &TinkerPath) -> Result<(), Refusal> {
        if self.deleting.contains(path) {
            let reason = format!("{path} is being deleted; save again when it is gone");
            return Err(Refusal::conflict(reason));
        }
        *self.saving.entry(path.clone()).or_default() += 1;
        Ok(())
    }

    /// Records the end of a save to `path`, whether it succeeded or failed. The checkpoint at this path can then be deleted, and is
    /// deleted if it has expired.
    pub(crate) fn end_save(&mut self, agenda: &mut Agenda, at: Stamp, path: &TinkerPath) {
        if let Some(saves) = self.saving.get_mut(path) {
            *saves -= 1;
            if *saves == 0 {
                self.saving.remove(path);
            }
        }
        // A checkpoint that expired during the save is due now.
        self.plan_expiry(agenda, at, path);
    }

    /// Begins the deletion of a checkpoint for a client, and returns the metadata of the checkpoint.
    ///
    /// # Errors
    ///
    /// If there is no checkpoint at this path, or if a save to the path is running.
    pub(crate) fn begin_delete(
        &mut self,
        agenda: &mut Agenda,
        path: &TinkerPath,
    ) -> Result<CheckpointRecord, Refusal> {
        let path = self.get(path)?.path.clone();
        if self.is_saving(&path) {
            let reason =
                format!("{path} is being saved; delete it when its save has ended, or not at all");
            return Err(Refusal::conflict(reason));
        }
        self.take(agenda, &path).ok_or_else(|| unknown(&path))
    }

    /// Begins the deletion of a checkpoint if it has expired. Returns `None` if it has not expired, was deleted already, or is
    /// being saved again.
    pub(crate) fn begin_expiry(
        &mut self,
        agenda: &mut Agenda,
        at: Stamp,
        path: &TinkerPath,
    ) -> Option<CheckpointRecord> {
        self.set_date(at);
        let expires = expires(at, self.records.get(path)?)?;
        // The wall clock was set back.
        if expires > at.now {
            self.plan_expiry(agenda, at, path);
            return None;
        }
        // Its expiry is planned again at the end of the save.
        if self.is_saving(path) {
            return None;
        }
        self.take(agenda, path)
    }

    /// Changes whether a checkpoint is published, and when it expires. Does nothing if there is no checkpoint at this path.
    pub(crate) fn change(
        &mut self,
        agenda: &mut Agenda,
        at: Stamp,
        path: &TinkerPath,
        change: &CheckpointChange,
    ) {
        if let Some(record) = self.records.get_mut(path) {
            record.public = change.public;
            record.expires_at = change.expires_at;
            self.plan_expiry(agenda, at, path);
        }
    }

    /// Applies a change that was made by an earlier process. Returns `false` if the checkpoint was replaced after the change. A change of
    /// a checkpoint that the engine does not list, perhaps because it cannot read it, has no effect.
    pub(crate) fn restore(
        &mut self,
        agenda: &mut Agenda,
        at: Stamp,
        path: &TinkerPath,
        change: &CheckpointChange,
    ) -> bool {
        let record = self.records.get(path);
        let is_same = record.is_none_or(|record| record.saved_at == change.saved_at);
        if is_same {
            self.change(agenda, at, path, change);
        }
        is_same
    }

    fn take(&mut self, agenda: &mut Agenda, path: &TinkerPath) -> Option<CheckpointRecord> {
        let record = self.records.remove(path)?;
        self.cancel_expiry(agenda, path);
        self.deleting.insert(path.clone());
        Some(record)
    }

    /// Records the end of the deletion of a checkpoint, whether it succeeded or failed. The path can then be saved to again.
    pub(crate) fn end_delete(&mut self, path: &TinkerPath) {
        self.deleting.remove(path);
    }
}

pub(crate) fn unknown(path: &TinkerPath) -> Refusal {
    Refusal::not_found(format!("path: no checkpoint {path} on this server"))
}

/// Returns the time at which a checkpoint expires, on the monotonic clock of the server. Returns `None` if it does not expire.
fn expires(at: Stamp, record: &CheckpointRecord) -> Option<Timestamp> {
    let left = record.expires_at? - CheckpointRecord::seconds(at.wall);
    // Seconds that do not fit a `Duration` lie in the distant past or future.
    let left = Duration::try_from_secs_f64(left).unwrap_or(if left > 0.0 {
        Duration::MAX
    } else {
        Duration::ZERO
    });
    Some(at.now.after(left))
}

/// Returns the path with the kind of checkpoint (`weights` or `sampler_weights`), which clients may omit in paths of sampler
/// weights.
fn canonical(path: &TinkerPath) -> TinkerPath {
    let whole = || TinkerPath::new(path.run_id()?, path.kind()?, path.name()).ok();
    whole().unwrap_or_else(|| path.clone())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::time::SystemTime;
    use tinkers_wire::{CheckpointKind, LoraConfig};

    /// Returns the metadata of a checkpoint with this name that was saved at the Unix epoch, for tests.
    pub(crate) fn record(name: &str, expires_at: Option<f64>) -> CheckpointRecord {
        CheckpointRecord {
            path: TinkerPath::new("run", CheckpointKind::Training, name).unwrap(),
            base_model: "base".to_owned(),
            base_fingerprint: None,
            lora: LoraConfig::rank(4),
            saved_at: 0.0,
            expires_at,
            size_bytes: 0,
            user_metadata: None,
            run_metadata: None,
            owner: None,
            public: false,
            project_id: None,
        }
    }

    fn at(seconds: u64) -> Stamp {
        let since = Duration::from_secs(seconds);
        Stamp {
            now: Timestamp::ORIGIN.after(since),
            wall: SystemTime::UNIX_EPOCH + since,
        }
    }

    #[test]
    fn expired_checkpoint_is_deleted_once() {
        let (mut all, mut agenda) = (Checkpoints::default(), Agenda::default());
        let record = record("a", Some(10.0));
        all.insert(&mut agenda, at(0), record.clone());
        assert_eq!(agenda.next(), Some(at(10).now));
        assert!(all.begin_expiry(&mut agenda, at(9), &record.path).is_none());
        let deleted = all.begin_expiry(&mut agenda, at(10), &record.path);
        assert_eq!(deleted.unwrap().path, record.path);
        assert!(
            all.begin_expiry(&mut agenda, at(11), &record.path)
                .is_none()
        );
        assert_eq!(all.get(&record.path).unwrap_err().status(), 404);
    }

    #[test]
    fn running_save_prevents_expiry_and_deletion_of_the_checkpoint() {
        let (mut all, mut agenda) = (Checkpoints::default(), Agenda::default());
        let path = record("a", None).path;
        all.insert(&mut agenda, at(0), record("a", Some(10.0)));
        all.begin_save(&path).unwrap();
        all.begin_save(&path).unwrap();
        all.begin_save(&path).unwrap();
        let refused = |all: &mut Checkpoints, agenda: &mut Agenda| {
            all.begin_delete(agenda, &path).unwrap_err().status()
        };
        assert_eq!(refused(&mut all, &mut agenda), 409);
        all.end_save(&mut agenda, at(9), &path);
        assert_eq!(refused(&mut all, &mut agenda), 409);
        assert!(all.begin_expiry(&mut agenda, at(10), &path).is_none());
        assert_eq!(refused(&mut all, &mut agenda), 404);
        all.end_save(&mut agenda, at(11), &path);
        while agenda.pop_due(at(11).now).is_some() {}
        all.end_save(&mut agenda, at(12), &path);
        assert_eq!(
            agenda.pop_due(at(12).now),
            Some(Alarm::Checkpoint(path.clone()))
        );
        assert!(all.begin_expiry(&mut agenda, at(12), &path).is_some());
    }

    #[test]
    fn repeated_changes_of_the_expiry_leave_one_alarm() {
        let (mut all, mut agenda) = (Checkpoints::default(), Agenda::default());
        let path = record("a", None).path;
        all.insert(&mut agenda, at(0), record("a", Some(10.0)));
        for expires_at in [Some(20.0), Some(5.0), Some(30.0), None, Some(40.0)] {
            let change = CheckpointChange {
                saved_at: 0.0,
                public: false,
                expires_at,
            };
            all.change(&mut agenda, at(1), &path, &change);
        }
        assert_eq!(agenda.next(), Some(at(40).now));
        all.begin_delete(&mut agenda, &path).unwrap();
        assert_eq!(agenda.next(), None);
    }

    #[test]
    fn expired_checkpoint_is_not_served_before_its_deletion() {
        let (mut all, mut agenda) = (Checkpoints::default(), Agenda::default());
        let path = record("a", None).path;
        all.insert(&mut agenda, at(0), record("a", Some(10.0)));
        all.set_date(at(9));
        assert!(all.get(&path).is_ok() && all.iter().count() == 1);
        all.set_date(at(10));
        assert_eq!(all.get(&path).unwrap_err().status(), 404);
        assert_eq!(all.iter().count(), 0);
        assert!(all.begin_expiry(&mut agenda, at(10), &path).is_some());
    }

    #[test]
    fn later_expiry_replaces_an_earlier_one() {
        let (mut all, mut agenda) = (Checkpoints::default(), Agenda::default());
        let path = record("a", None).path;
        all.insert(&mut agenda, at(0), record("a", Some(10.0)));
        let change = CheckpointChange {
            saved_at: 0.0,
            public: false,
            expires_at: Some(20.0),
        };
        all.change(&mut agenda, at(1), &path, &change);
        assert!(all.begin_expiry(&mut agenda, at(10), &path).is_none());
        assert!(all.begin_expiry(&mut agenda, at(20), &path).is_some());
    }

    #[test]
    fn stored_change_applies_only_to_the_save_that_it_belongs_to() {
        let (mut all, mut agenda) = (Checkpoints::default(), Agenda::default());
        let path = record("a", None).path;
        let change = |saved_at| CheckpointChange {
            saved_at,
            public: true,
            expires_at: None,
        };
        // The engine may be unable to read the checkpoint at present, so its change is kept.
        assert!(all.restore(&mut agenda, at(0), &path, &change(0.0)));
        all.insert(&mut agenda, at(0), record("a", None));
        assert!(!all.restore(&mut agenda, at(0), &path, &change(5.0)));
        assert!(!all.get(&path).unwrap().public);
        assert!(all.restore(&mut agenda, at(0), &path, &change(0.0)));
        assert!(all.get(&path).unwrap().public);
    }

    #[test]
    fn save_to_a_checkpoint_during_its_deletion_is_refused() {
        let (mut all, mut agenda) = (Checkpoints::default(), Agenda::default());
        let record = record("a", None);
        all.insert(&mut agenda, at(0), record.clone());
        assert!(all.is_in_use(&record.path));
        all.begin_delete(&mut agenda, &record.path).unwrap();
        assert_eq!(all.begin_save(&record.path).unwrap_err().status(), 409);
        all.end_delete(&record.path);
        all.begin_save(&record.path).unwrap();
        assert!(all.is_in_use(&record.path));
        let error = all.get(&record.path).unwrap_err();
        assert_eq!(error.status(), 404);
    }
}
