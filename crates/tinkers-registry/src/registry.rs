//! The registry as its users see it.

use std::borrow::Borrow;
use std::convert::Infallible;
use std::fmt;
use std::panic::resume_unwind;
use std::sync::Arc;

use crate::collisions::Collisions;
use crate::handle::{Handle, Ticket};
use crate::node::Node;
use crate::slot::Failure;
use crate::table::Table;

/// A registry of shared values by key. Clones are the same registry.
pub struct Registry<K, V> {
    table: Arc<Table<K, V>>,
}

impl<K, V> Registry<K, V> {
    /// A registry without entries.
    pub fn new() -> Self {
        Self {
            table: Arc::new(Table::empty()),
        }
    }

    /// How many keys are in use, those included whose value is being built. A key counts until the drop of its last handle
    /// has taken its entry out, so this is also how many entries take up memory.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether no key is in use.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How often calls came in each other's way so far.
    pub fn collisions(&self) -> Collisions {
        self.table.counters.read()
    }
}

impl<K: Ord, V> Registry<K, V> {
    /// The value of `key`, built by `build` if nobody holds one.
    ///
    /// `build` runs without any lock: others who ask for the same key wait for it and get the same value, others do not
    /// wait. It blocks the thread for as long as another's `build` takes. Should `build` panic, the panic goes on in the
    /// caller, and the next who waits or asks builds it.
    ///
    /// The value that was last in use may still be in its drop, on the thread of its last holder, while the next is built.
    ///
    /// # Panics
    ///
    /// If called for `key` within the `build` of `key`, which would wait for itself. Two builders that ask for each other's
    /// keys on two threads do wait for each other.
    pub fn get_or_create(&self, key: K, build: impl FnOnce() -> V) -> Handle<K, V> {
        match self.try_get_or_create(key, || Ok::<V, Infallible>(build())) {
            Ok(handle) => handle,
        }
    }

    /// The value of `key`, built by `build` if nobody holds one. All is as with [`get_or_create`](Self::get_or_create), but
    /// that `build` may fail.
    ///
    /// # Errors
    ///
    /// Whatever `build` gave. The error is not kept: others who wait for the key at that time build in their turn.
    ///
    /// # Panics
    ///
    /// As [`get_or_create`](Self::get_or_create).
    pub fn try_get_or_create<E>(
        &self,
        key: K,
        build: impl FnOnce() -> Result<V, E>,
    ) -> Result<Handle<K, V>, E> {
        let ticket = self.take(key);
        let failure = match ticket.node.slot.value_or_build(build, &self.table.counters) {
            Ok(value) => return Ok(Handle { value, ticket }),
            Err(failure) => failure,
        };
        // Before any unwinding: the entry goes here, if nobody else is interested in it.
        drop(ticket);
        match failure {
            Failure::Refused(error) => Err(error),
            Failure::Panicked(panic) => resume_unwind(panic),
            Failure::Nested => panic!("the builder of a key asked for the same key"),
        }
    }

    /// The value of `key`, if somebody holds it and it is built. Takes no lock and never waits.
    pub fn get<Q>(&self, key: &Q) -> Option<Handle<K, V>>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let ticket = self.ticket(self.table.find(key)?);
        let value = ticket.node.slot.value()?;
        Some(Handle { value, ticket })
    }

    fn take(&self, key: K) -> Ticket<K, V> {
        if let Some(node) = self.table.find(&key) {
            return self.ticket(node);
        }
        let fresh = Arc::new(Node::with_one_ticket(key));
        self.ticket(self.table.find_or_insert(fresh))
    }

    /// Takes over the ticket that comes with `node`.
    fn ticket(&self, node: Arc<Node<K, V>>) -> Ticket<K, V> {
        Ticket {
            node,
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
        // Neither keys nor values: either may be what must not reach a log.
        f.debug_struct("Registry")
            .field("live", &self.len())
            .finish()
    }
}
