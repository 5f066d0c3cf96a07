//! A value that knows when it is built, held and dropped, and the ledger that it reports to.
//!
//! In a model each entry in the ledger is a step that loom sees, or it would not try them in every order; a relaxed one, so
//! that the ledger does not order what the registry should.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What has been seen.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Values built.
    pub(crate) built: u64,
    /// Values dropped.
    pub(crate) dropped: u64,
    /// Handles that were taken while other holders of the key had another value.
    pub(crate) disagreements: u64,
    /// Values dropped while somebody held them.
    pub(crate) dropped_under_holder: u64,
    /// By key: the value that is held, and by how many.
    held: BTreeMap<usize, (u64, usize)>,
}

impl Seen {
    /// Every fault by name; none where all is as it should be at the end of a run.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.disagreements > 0 {
            found.push(format!("{} times two values of a key", self.disagreements));
        }
        if self.dropped_under_holder > 0 {
            found.push(format!("{} dropped while held", self.dropped_under_holder));
        }
        if self.built != self.dropped {
            found.push(format!("{} built, {} dropped", self.built, self.dropped));
        }
        if !self.held.is_empty() {
            found.push(format!("still held: {:?}", self.held));
        }
        found
    }
}

/// The ledger of a run.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    seen: Mutex<Seen>,
    #[cfg(tinkers_loom)]
    steps: loom::sync::atomic::AtomicUsize,
}

impl Ledger {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A new value of `key`.
    pub(crate) fn build(self: &Arc<Self>, key: usize) -> Probe {
        let mut seen = self.lock();
        seen.built += 1;
        Probe {
            id: seen.built,
            key,
            ledger: Arc::clone(self),
            #[cfg(tinkers_loom)]
            memory: Memory::written(),
        }
    }

    /// To be called after a handle was taken.
    pub(crate) fn enter(&self, probe: &Probe) {
        #[cfg(tinkers_loom)]
        probe.memory.read();
        let mut seen = self.lock();
        let (id, holders) = *seen.held.get(&probe.key).unwrap_or(&(probe.id, 0));
        seen.disagreements += u64::from(id != probe.id);
        seen.held.insert(probe.key, (probe.id, holders + 1));
    }

    /// To be called before a handle is dropped.
    pub(crate) fn leave(&self, probe: &Probe) {
        #[cfg(tinkers_loom)]
        probe.memory.read();
        let mut seen = self.lock();
        let Some((_, holders)) = seen.held.get_mut(&probe.key) else {
            return;
        };
        *holders -= 1;
        if *holders == 0 {
            seen.held.remove(&probe.key);
        }
    }

    pub(crate) fn seen(&self) -> Seen {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        #[cfg(tinkers_loom)]
        self.steps
            .fetch_add(1, loom::sync::atomic::Ordering::Relaxed);
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A value.
#[derive(Debug)]
pub(crate) struct Probe {
    pub(crate) id: u64,
    pub(crate) key: usize,
    ledger: Arc<Ledger>,
    #[cfg(tinkers_loom)]
    memory: Memory,
}

impl Drop for Probe {
    fn drop(&mut self) {
        #[cfg(tinkers_loom)]
        self.memory.write();
        let mut seen = self.ledger.lock();
        seen.dropped += 1;
        if seen
            .held
            .get(&self.key)
            .is_some_and(|(id, _)| *id == self.id)
        {
            seen.dropped_under_holder += 1;
        }
    }
}

/// Memory that loom watches: it fails the model where a read is not ordered, by the registry alone, after the value was
/// built and before it was dropped. An atomic, since only that can be shared in safe code; its reads are relaxed, so that
/// they order nothing themselves.
#[cfg(tinkers_loom)]
#[derive(Debug)]
struct Memory(loom::sync::atomic::AtomicUsize);

#[cfg(tinkers_loom)]
impl Memory {
    fn written() -> Self {
        Self(loom::sync::atomic::AtomicUsize::new(0))
    }

    fn read(&self) {
        self.0.load(loom::sync::atomic::Ordering::Relaxed);
    }

    fn write(&mut self) {
        self.0.with_mut(|_| ());
    }
}
