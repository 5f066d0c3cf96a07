//! Handles, which keep entries alive.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::entry::Entry;
use crate::table::Table;

/// A shared reference to a value in a registry. While a handle exists, calls for its key return the same value.
///
/// Dropping the last handle of a key removes the entry and then drops the value, on the same thread and before the drop of the handle
/// returns. No lock is held meanwhile, so the drop of the value may use the registry.
pub struct Handle<K, V> {
    // Field order matters: the value is dropped first, so that the last reference finds no other owner of it.
    pub(crate) value: Arc<V>,
    pub(crate) entry_ref: EntryRef<K, V>,
}

impl<K, V> Handle<K, V> {
    /// Returns the key of the value.
    pub fn key(&self) -> &K {
        &self.entry_ref.entry.key
    }
}

impl<K, V> Deref for Handle<K, V> {
    type Target = V;

    fn deref(&self) -> &V {
        &self.value
    }
}

impl<K, V> Clone for Handle<K, V> {
    fn clone(&self) -> Self {
        Self {
            value: Arc::clone(&self.value),
            entry_ref: self.entry_ref.clone(),
        }
    }
}

impl<K, V: fmt::Debug> fmt::Debug for Handle<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&*self.value).finish()
    }
}

/// A counted reference to an entry of the registry's table. A caller that builds the value holds one during the build, and each handle
/// holds one.
pub(crate) struct EntryRef<K, V> {
    pub(crate) entry: Arc<Entry<K, V>>,
    pub(crate) table: Arc<Table<K, V>>,
}

impl<K, V> Clone for EntryRef<K, V> {
    fn clone(&self) -> Self {
        self.entry.add_ref();
        Self {
            entry: Arc::clone(&self.entry),
            table: Arc::clone(&self.table),
        }
    }
}

impl<K, V> Drop for EntryRef<K, V> {
    fn drop(&mut self) {
        if !self.entry.release_ref() {
            return;
        }
        self.table.remove(&self.entry);
        // Take the value out of the entry, because a slow reader may keep the entry alive in an old table. Such a
        // reader cannot reach the value without a counted reference.
        drop(self.entry.value.take());
    }
}
