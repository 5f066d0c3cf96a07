//! The public registry type.

use std::borrow::Borrow;
use std::convert::Infallible;
use std::fmt;
use std::panic::resume_unwind;
use std::sync::Arc;

use crate::contention::Contention;
use crate::entry::Entry;
use crate::handle::{EntryRef, Handle};
use crate::lazy_value::BuildError;
use crate::table::Table;

/// A registry of shared values, at most one per key. A value is built when its key is requested, and dropped with its last handle. Clones
/// refer to the same registry.
pub struct Registry<K, V> {
    table: Arc<Table<K, V>>,
}

impl<K, V> Registry<K, V> {
    /// Creates an empty registry.
    pub fn new() -> Self {
        Self {
            table: Arc::new(Table::empty()),
        }
    }

    /// Returns the number of keys in use, including keys with a value that is being built.
    ///
    /// A key is in use until the drop of its last handle has removed its entry. So this is also the number of entries in memory.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Returns whether no key is in use.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how often concurrent calls of the registry affected each other.
    pub fn contention(&self) -> Contention {
        self.table.counters.read()
    }
}

impl<K: Ord, V> Registry<K, V> {
    /// Returns a handle of the value of `key`. Builds the value with `build` if no handle exists.
    ///
    /// `build` runs without any lock. Concurrent calls for the same key wait until it returns and get the same value; calls for other
    /// keys do not wait. If `build` panics, the panic resumes in this caller, and the next waiting or later caller builds the value.
    ///
    /// The previous value of the key may still be dropping on another thread while `build` runs.
    ///
    /// # Panics
    ///
    /// Panics if `build` requests `key` itself, which would deadlock. Two build functions on different threads that request each
    /// other's keys do deadlock.
    pub fn get_or_create(&self, key: K, build: impl FnOnce() -> V) -> Handle<K, V> {
        match self.try_get_or_create(key, || Ok::<V, Infallible>(build())) {
            Ok(handle) => handle,
        }
    }

    /// Returns a handle like [`get_or_create`](Self::get_or_create), with a build function that may fail.
    ///
    /// # Errors
    ///
    /// Returns the error of `build`. The error is not stored: other calls that wait for the key run their own build function.
    ///
    /// # Panics
    ///
    /// As [`get_or_create`](Self::get_or_create).
    pub fn try_get_or_create<E>(
        &self,
        key: K,
        build: impl FnOnce() -> Result<V, E>,
    ) -> Result<Handle<K, V>, E> {
        let entry_ref = self.find_or_insert(key);
        let error = match entry_ref
            .entry
            .value
            .get_or_build(build, &self.table.counters)
        {
            Ok(value) => return Ok(Handle { value, entry_ref }),
            Err(error) => error,
        };
        // Drop the reference before unwinding, which removes an entry that has no other references.
        drop(entry_ref);
        match error {
            BuildError::Failed(error) => Err(error),
            BuildError::Panicked(panic) => resume_unwind(panic),
            BuildError::Recursive => panic!("the builder of a key requested the same key"),
        }
    }

    /// Returns a handle of the value of `key` if another handle exists and the value has been built, otherwise `None`. Takes no lock and
    /// never waits.
    pub fn get<Q>(&self, key: &Q) -> Option<Handle<K, V>>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let entry_ref = self.adopt_ref(self.table.find(key)?);
        let value = entry_ref.entry.value.get()?;
        Some(Handle { value, entry_ref })
    }

    fn find_or_insert(&self, key: K) -> EntryRef<K, V> {
        if let Some(entry) = self.table.find(&key) {
            return self.adopt_ref(entry);
        }
        let fresh = Arc::new(Entry::with_one_ref(key));
        self.adopt_ref(self.table.find_or_insert(fresh))
    }

    /// Wraps a reference to `entry` that the table has already counted for the caller. Dropping the returned value releases the reference.
    fn adopt_ref(&self, entry: Arc<Entry<K, V>>) -> EntryRef<K, V> {
        EntryRef {
            entry,
            table: Arc::clone(&self.table),
        }
    }
}

impl<K, V> Default for Registry<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> Clone for Registry<K, V> {
    fn clone(&self) -> Self {
        Self {
            table: Arc::clone(&self.table),
        }
    }
}

impl<K, V> fmt::Debug for Registry<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Show neither keys nor values, because they may be secret.
        f.debug_struct("Registry")
            .field("len", &self.len())
            .finish()
    }
}
