//! A holder's share in an entry.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::node::Node;
use crate::table::Table;

/// A share in a value of the registry, which stays there at least as long as this.
///
/// The last handle of a key removes its entry and then drops the value, before its own drop returns and on its own thread. No lock
/// is held at that time, so the value may use the registry as it goes.
pub struct Handle<K, V> {
    // Fields go in this order: the value before the ticket, so that the last ticket finds no other share in it.
    pub(crate) value: Arc<V>,
    pub(crate) ticket: Ticket<K, V>,
}

impl<K, V> Handle<K, V> {
    /// The key that it is shared under.
    pub fn key(&self) -> &K {
        &self.ticket.node.key
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
            ticket: self.ticket.clone(),
        }
    }
}

impl<K, V: fmt::Debug> fmt::Debug for Handle<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&*self.value).finish()
    }
}

/// One unit of an entry's count, also while its value is being built.
pub(crate) struct Ticket<K, V> {
    pub(crate) node: Arc<Node<K, V>>,
    pub(crate) table: Arc<Table<K, V>>,
}

impl<K, V> Clone for Ticket<K, V> {
    fn clone(&self) -> Self {
        self.node.grow();
        Self {
            node: Arc::clone(&self.node),
            table: Arc::clone(&self.table),
        }
    }
}

impl<K, V> Drop for Ticket<K, V> {
    fn drop(&mut self) {
        if !self.node.shrink() {
            return;
        }
        self.table.remove(&self.node);
        // Taken out of the node, since a slow reader may keep that alive in an old list; the value it cannot reach, for
        // want of a ticket.
        drop(self.node.slot.take());
    }
}
