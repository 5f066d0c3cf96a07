//! A holder's share in an entry.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::table::{Slot, Table};

/// A share in a value of the registry, which stays there at least as long as this.
pub struct Handle<K: Ord, V> {
    pub(crate) value: Arc<V>,
    pub(crate) ticket: Ticket<K, V>,
}

impl<K: Ord, V> Handle<K, V> {
    /// The key that it is shared under.
    pub fn key(&self) -> &K {
        &self.ticket.node.key
    }
}

impl<K: Ord, V> Deref for Handle<K, V> {
    type Target = V;

    fn deref(&self) -> &V {
        &self.value
    }
}

impl<K: Ord, V> Clone for Handle<K, V> {
    fn clone(&self) -> Self {
        Self {
            value: Arc::clone(&self.value),
            ticket: self.ticket.clone(),
        }
    }
}

impl<K: Ord, V: fmt::Debug> fmt::Debug for Handle<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&*self.value).finish()
    }
}

/// One entry: its key, how many tickets there are for it, its value once that is built.
pub(crate) struct Node<K, V> {
    pub(crate) key: K,
    tickets: AtomicUsize,
    pub(crate) value: Slot<V>,
}

impl<K, V> Node<K, V> {
    pub(crate) const fn of_one(key: K) -> Self {
        Self {
            key,
            tickets: AtomicUsize::new(1),
            value: Slot::new(),
        }
    }

    /// One ticket more. The caller holds one already, or the lock of a table that has this entry.
    pub(crate) fn grow(&self) {
        self.tickets.fetch_add(1, Ordering::Relaxed);
    }

    /// One ticket less, unless it is the last.
    fn shrink_unless_last(&self) -> bool {
        self.tickets
            .try_update(Ordering::Release, Ordering::Relaxed, |tickets| {
                (tickets > 1).then(|| tickets - 1)
            })
            .is_ok()
    }

    /// One ticket less, under the table's lock; whether it was the last.
    fn shrink(&self) -> bool {
        self.tickets.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

/// One unit of an entry's count, also while its value is being built.
pub(crate) struct Ticket<K: Ord, V> {
    pub(crate) node: Arc<Node<K, V>>,
    pub(crate) table: Arc<Table<K, V>>,
}

impl<K: Ord, V> Clone for Ticket<K, V> {
    fn clone(&self) -> Self {
        self.node.grow();
        Self {
            node: Arc::clone(&self.node),
            table: Arc::clone(&self.table),
        }
    }
}

impl<K: Ord, V> Drop for Ticket<K, V> {
    fn drop(&mut self) {
        if self.node.shrink_unless_last() {
            return;
        }
        let removed = {
            let mut live = self.table.lock();
            // Another may have come in between; under the lock none can any more.
            if !self.node.shrink() {
                return;
            }
            live.remove_entry(&self.node.key)
        };
        // Key and value are foreign code: they go without the lock.
        drop(removed);
    }
}
