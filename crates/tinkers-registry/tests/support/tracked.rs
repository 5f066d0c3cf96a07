//! Values that report to a tracker when they are built, held and dropped.
//!
//! In a loom model each report is a step that loom can interleave. It is relaxed, so that the tracker does not provide
//! the ordering that the registry should provide.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a tracker has recorded about values and their handles.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Observations {
    /// The number of values that were built.
    pub(crate) built: u64,
    /// The number of values that were dropped.
    pub(crate) dropped: u64,
    /// The number of handles that were acquired while another handle of the same key referred to a different value.
    pub(crate) disagreements: u64,
    /// The number of values that were dropped although a handle of them existed.
    pub(crate) dropped_under_holder: u64,
    /// For each key, the id of the value that has handles, and the number of these handles.
    held: BTreeMap<usize, (u64, usize)>,
}

impl Observations {
    /// Returns descriptions of the registry faults that the recorded numbers show. Called after all handles have been dropped.
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

/// Records when the values of a test are built and dropped, and when their handles are acquired and dropped.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    observed: Mutex<Observations>,
    #[cfg(tinkers_loom)]
    steps: loom::sync::atomic::AtomicUsize,
}

impl Tracker {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Builds a new value for `key`, which reports to this tracker.
    pub(crate) fn build(self: &Arc<Self>, key: usize) -> Tracked {
        let mut observed = self.lock();
        observed.built += 1;
        Tracked {
            id: observed.built,
            key,
            tracker: Arc::clone(self),
            #[cfg(tinkers_loom)]
            memory: Memory::written(),
        }
    }

    /// Records that a handle of the value `tracked` was acquired.
    pub(crate) fn acquired(&self, tracked: &Tracked) {
        #[cfg(tinkers_loom)]
        tracked.memory.read();
        let mut observed = self.lock();
        let (id, holders) = *observed.held.get(&tracked.key).unwrap_or(&(tracked.id, 0));
        observed.disagreements += u64::from(id != tracked.id);
        observed.held.insert(tracked.key, (tracked.id, holders + 1));
    }

    /// Records that a handle of the value `tracked` is about to be dropped.
    pub(crate) fn releasing(&self, tracked: &Tracked) {
        #[cfg(tinkers_loom)]
        tracked.memory.read();
        let mut observed = self.lock();
        let Some((_, holders)) = observed.held.get_mut(&tracked.key) else {
            return;
        };
        *holders -= 1;
        if *holders == 0 {
            observed.held.remove(&tracked.key);
        }
    }

    pub(crate) fn observations(&self) -> Observations {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Observations> {
        #[cfg(tinkers_loom)]
        self.steps
            .fetch_add(1, loom::sync::atomic::Ordering::Relaxed);
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A value in the registry under test. The value reports to a tracker.
#[derive(Debug)]
pub(crate) struct Tracked {
    pub(crate) id: u64,
    pub(crate) key: usize,
    tracker: Arc<Tracker>,
    #[cfg(tinkers_loom)]
    memory: Memory,
}

impl Drop for Tracked {
    fn drop(&mut self) {
        #[cfg(tinkers_loom)]
        self.memory.write();
        let mut observed = self.tracker.lock();
        observed.dropped += 1;
        if observed
            .held
            .get(&self.key)
            .is_some_and(|(id, _)| *id == self.id)
        {
            observed.dropped_under_holder += 1;
        }
    }
}

/// A piece of memory in each value, whose accesses loom checks. A loom model fails unless the registry orders each read after the build and
/// before the drop of the value. The memory is an atomic, since safe code can share nothing else. Reads are relaxed, so that they provide
/// no ordering themselves.
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
