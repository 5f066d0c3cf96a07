//! The table of entries: a sorted list that is never changed, only replaced.

use std::borrow::Borrow;
use std::sync::Arc;

use crate::cell::Shared;
use crate::collisions::Counters;
use crate::node::Node;
use crate::sync::{Mutex, lock};

/// Entries in the order of their keys.
type Entries<K, V> = Box<[Arc<Node<K, V>>]>;

/// The entries of a registry, at most one for a key.
///
/// An entry in here may have lost its last holder, for as long as that one takes to remove it.
pub(crate) struct Table<K, V> {
    live: Shared<Entries<K, V>>,
    /// Held by whoever replaces the list. It guards no data: readers do not take it.
    writers: Mutex<()>,
    pub(crate) counters: Counters,
}

impl<K, V> Table<K, V> {
    pub(crate) fn empty() -> Self {
        Self {
            live: Shared::new(Box::default()),
            writers: Mutex::new(()),
            counters: Counters::default(),
        }
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.live.load().len()
    }

    /// The entry of `key` with a ticket more, if somebody holds it. Takes no lock.
    pub(crate) fn find<Q>(&self, key: &Q) -> Option<Arc<Node<K, V>>>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let entries = self.live.load();
        let node = &entries[place(&entries, key).ok()?];
        node.grow_unless_gone(&self.counters)
            .then(|| Arc::clone(node))
    }

    /// The entry of the key of `fresh` with a ticket more, or else `fresh` itself, which comes with one.
    pub(crate) fn find_or_insert(&self, fresh: Arc<Node<K, V>>) -> Arc<Node<K, V>>
    where
        K: Ord,
    {
        // The list that is replaced goes after the lock: with it may go a key, which is foreign code.
        let _replaced = {
            let _writer = lock(&self.writers);
            let entries = self.live.load();
            let mut next = Vec::with_capacity(entries.len() + 1);
            match place(&entries, &fresh.key) {
                Ok(at) => {
                    let found = &entries[at];
                    if found.grow_unless_gone(&self.counters) {
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
            self.live.swap(Arc::new(next.into_boxed_slice()))
        };
        fresh
    }

    /// Takes out an entry that nobody holds any more, unless another has come in its place.
    pub(crate) fn remove(&self, gone: &Arc<Node<K, V>>) {
        let _replaced = {
            let _writer = lock(&self.writers);
            let entries = self.live.load();
            // By address and not by key: it is this one that goes, and the order of keys is foreign code.
            let Some(at) = entries.iter().position(|node| Arc::ptr_eq(node, gone)) else {
                return;
            };
            let mut next = Vec::with_capacity(entries.len() - 1);
            next.extend_from_slice(&entries[..at]);
            next.extend_from_slice(&entries[at + 1..]);
            self.live.swap(Arc::new(next.into_boxed_slice()))
        };
    }
}

fn place<K, V, Q>(entries: &[Arc<Node<K, V>>], key: &Q) -> Result<usize, usize>
where
    K: Borrow<Q>,
    Q: Ord + ?Sized,
{
    entries.binary_search_by(|node| node.key.borrow().cmp(key))
}
