//! The table of live entries.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::handle::{Handle, Node, Ticket};

/// A registry of shared values by key. Clones are the same registry.
pub struct Registry<K, V> {
    table: Arc<Table<K, V>>,
}

impl<K: Ord + Clone, V> Registry<K, V> {
    /// A registry without entries.
    pub fn new() -> Self {
        Self {
            table: Arc::new(Table {
                live: Mutex::new(BTreeMap::new()),
            }),
        }
    }

    /// The value of `key`, built by `build` if nobody holds one.
    ///
    /// `build` runs without the registry's lock; others who ask for the same key wait for it, others do not. Should it panic,
    /// the next who asks builds it. It must not ask for its own key.
    pub fn get_or_create(&self, key: K, build: impl FnOnce() -> V) -> Handle<K, V> {
        let ticket = self.take(key);
        let value = Arc::clone(ticket.node.value.get_or_init(|| Arc::new(build())));
        Handle { value, ticket }
    }

    /// The value of `key`, if somebody holds it.
    pub fn get(&self, key: &K) -> Option<Handle<K, V>> {
        let node = {
            let live = self.table.lock();
            let node = live.get(key)?;
            node.grow();
            Arc::clone(node)
        };
        let ticket = Ticket {
            node,
            table: Arc::clone(&self.table),
        };
        let value = Arc::clone(ticket.node.value.get()?);
        Some(Handle { value, ticket })
    }

    /// How many keys are in use.
    pub fn len(&self) -> usize {
        self.table.lock().len()
    }

    /// Whether no key is in use.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn take(&self, key: K) -> Ticket<K, V> {
        // Made beforehand, so that a key's clone does not run under the lock; the one that is not used goes after it.
        let fresh = Arc::new(Node::of_one(key.clone()));
        let node = {
            let mut live = self.table.lock();
            match live.get(&key) {
                Some(node) => {
                    node.grow();
                    Arc::clone(node)
                }
                None => {
                    live.insert(key, Arc::clone(&fresh));
                    fresh
                }
            }
        };
        Ticket {
            node,
            table: Arc::clone(&self.table),
        }
    }
}

impl<K: Ord + Clone, V> Default for Registry<K, V> {
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
        // Neither keys nor values: either may be what must not reach a log.
        f.debug_struct("Registry")
            .field("live", &self.table.lock().len())
            .finish()
    }
}

/// The entries that somebody holds. An entry's count is above zero for as long as it is in here, since it is taken to and
/// from zero under the lock alone.
pub(crate) struct Table<K, V> {
    live: Mutex<BTreeMap<K, Arc<Node<K, V>>>>,
}

impl<K, V> Table<K, V> {
    pub(crate) fn lock(&self) -> MutexGuard<'_, BTreeMap<K, Arc<Node<K, V>>>> {
        // Nothing in here can be left half done: the only foreign code under the lock is the order of keys.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A value that is built once, by whoever comes first.
pub(crate) type Slot<V> = OnceLock<Arc<V>>;
