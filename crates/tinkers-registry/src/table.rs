//! The table of entries: a sorted immutable list that is replaced as a whole.

use std::borrow::Borrow;
use std::sync::Arc;

use crate::cell::SwapCell;
use crate::contention::Counters;
use crate::entry::Entry;
use crate::sync::{Mutex, lock};

/// The entries of a registry's table, sorted by key.
type Entries<K, V> = Box<[Arc<Entry<K, V>>]>;

/// The entries of a registry, at most one per key.
///
/// An entry without references may remain in the table until the thread that dropped its last reference has removed it.
pub(crate) struct Table<K, V> {
    entries: SwapCell<Entries<K, V>>,
    /// A mutex that a thread holds while it replaces the list of entries. The mutex guards no data, and readers do not lock it.
    writers: Mutex<()>,
    pub(crate) counters: Counters,
}

impl<K, V> Table<K, V> {
    pub(crate) fn empty() -> Self {
        Self {
            entries: SwapCell::new(Box::default()),
            writers: Mutex::new(()),
            counters: Counters::default(),
        }
    }

    /// Returns the number of entries.
    pub(crate) fn len(&self) -> usize {
        self.entries.load().len()
    }

    /// Returns the entry of `key`, and adds one to its number of references for the caller. `None` if there is no entry, or if its last
    /// reference was released already. Takes no lock.
    pub(crate) fn find<Q>(&self, key: &Q) -> Option<Arc<Entry<K, V>>>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let entries = self.entries.load();
        let entry = &entries[search(&entries, key).ok()?];
        entry.try_add_ref(&self.counters).then(|| Arc::clone(entry))
    }

    /// Returns the existing entry for the key of `fresh`, and adds one to its number of references for the caller. If there is no entry
    /// with references, inserts and returns `fresh`, whose first reference belongs to the caller.
    pub(crate) fn find_or_insert(&self, fresh: Arc<Entry<K, V>>) -> Arc<Entry<K, V>>
    where
        K: Ord,
    {
        // The old list is dropped outside of the lock, since that may drop a key, which is user code.
        let _replaced = {
            let _writer = lock(&self.writers);
            let entries = self.entries.load();
            let mut next = Vec::with_capacity(entries.len() + 1);
            match search(&entries, &fresh.key) {
                Ok(at) => {
                    let found = &entries[at];
                    if found.try_add_ref(&self.counters) {
                        return Arc::clone(found);
                    }
                    next.extend_from_slice(&entries);
                    next[at] = Arc::clone(&fresh);
                }
                Err(at) => {
                    next.extend_from_slice(&entries[..at]);
                    next.push(Arc::clone(&fresh));
                    next.extend_from_slice(&entries[at..]);
                }
            }
            self.entries.swap(Arc::new(next.into_boxed_slice()))
        };
        fresh
    }

    /// Removes the entry `unused`, which has no references any more. Does nothing if another entry has replaced it already.
    pub(crate) fn remove(&self, unused: &Arc<Entry<K, V>>) {
        let _replaced = {
            let _writer = lock(&self.writers);
            let entries = self.entries.load();
            // The entries are compared by address: a new entry may have the same key, and comparing keys runs user code.
            let Some(at) = entries.iter().position(|entry| Arc::ptr_eq(entry, unused)) else {
                return;
            };
            let mut next = Vec::with_capacity(entries.len() - 1);
            next.extend_from_slice(&entries[..at]);
            next.extend_from_slice(&entries[at + 1..]);
            self.entries.swap(Arc::new(next.into_boxed_slice()))
        };
    }
}

/// Returns the index of `key` in the sorted entries, or as the error the index at which to insert it.
fn search<K, V, Q>(entries: &[Arc<Entry<K, V>>], key: &Q) -> Result<usize, usize>
where
    K: Borrow<Q>,
    Q: Ord + ?Sized,
{
    entries.binary_search_by(|entry| entry.key.borrow().cmp(key))
}
