//! A table of records: all records in memory, and the keys of those that have to be written to the store.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::store::{Change, StoreError};

/// The records of one kind, by their keys.
#[derive(Debug)]
pub(crate) struct Table<R> {
    name: &'static str,
    /// Whether changes are written to a store. Without one, the keys of changed records are not kept.
    is_stored: bool,
    all: BTreeMap<String, R>,
    /// The keys of the records that were changed and have to be written before the response to the request that changed them.
    changed: BTreeSet<String>,
    /// The keys of the records whose changes may be written later, because no response promises them.
    changed_later: BTreeSet<String>,
}

impl<R: Serialize + DeserializeOwned> Table<R> {
    pub(super) fn new(name: &'static str, is_stored: bool) -> Self {
        Self {
            name,
            is_stored,
            all: BTreeMap::new(),
            changed: BTreeSet::new(),
            changed_later: BTreeSet::new(),
        }
    }

    /// Adds a record that was read from the store.
    pub(super) fn load(&mut self, key: String, value: &[u8]) -> Result<(), StoreError> {
        let record = serde_json::from_slice(value)
            .map_err(|cause| StoreError::Invalid(format!("{} {key:?}: {cause}", self.name)))?;
        self.all.insert(key, record);
        Ok(())
    }

    pub(crate) fn get(&self, key: &str) -> Option<&R> {
        self.all.get(key)
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, &R)> {
        self.all.iter().map(|(key, record)| (key.as_str(), record))
    }

    /// Returns the records whose keys are at least `key`, ordered by their keys.
    pub(crate) fn starting_at(&self, key: &str) -> impl Iterator<Item = &R> {
        let from = (Bound::Included(key), Bound::Unbounded);
        self.all.range::<str, _>(from).map(|(_, record)| record)
    }

    /// Returns the records whose keys begin with `prefix`, ordered by their keys.
    pub(crate) fn with_prefix<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a R)> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let all = self.all.range::<str, _>(from);
        all.map(|(key, record)| (key.as_str(), record))
            .take_while(move |(key, _)| key.starts_with(prefix))
    }

    pub(crate) fn insert(&mut self, key: String, record: R) {
        if self.is_stored {
            self.changed.insert(key.clone());
        }
        self.all.insert(key, record);
    }

    pub(crate) fn remove(&mut self, key: &str) {
        if self.all.remove(key).is_some() && self.is_stored {
            self.changed.insert(key.to_owned());
        }
    }

    /// Returns a mutable reference to a record, to change it.
    pub(crate) fn change(&mut self, key: &str) -> Option<&mut R> {
        let record = self.all.get_mut(key)?;
        if self.is_stored {
            self.changed.insert(key.to_owned());
        }
        Some(record)
    }

    /// Returns a mutable reference to a record, for a change that may be written later.
    pub(crate) fn change_later(&mut self, key: &str) -> Option<&mut R> {
        let record = self.all.get_mut(key)?;
        if self.is_stored && !self.changed_later.contains(key) {
            self.changed_later.insert(key.to_owned());
        }
        Some(record)
    }

    /// Adds a record that may be written later.
    pub(crate) fn insert_later(&mut self, key: String, record: R) {
        if self.is_stored {
            self.changed_later.insert(key.clone());
        }
        self.all.insert(key, record);
    }

    pub(super) fn has_later_changes(&self) -> bool {
        !self.changed_later.is_empty()
    }

    /// Makes the changes that may be written later part of the next changes.
    pub(super) fn expedite(&mut self) {
        self.changed.append(&mut self.changed_later);
    }

    /// Appends the changes that have to be written now to `changes`.
    pub(super) fn take_changes(&mut self, changes: &mut Vec<Change>) {
        for key in std::mem::take(&mut self.changed) {
            self.changed_later.remove(&key);
            let value = self.all.get(&key).map(tinkers_wire::to_json);
            changes.push(Change {
                table: self.name,
                key,
                value,
            });
        }
    }
}
