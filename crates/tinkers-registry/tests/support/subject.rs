//! The registries under test: the real one, and one with a planted fault that the tests must detect.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use tinkers_registry::{Handle, Registry};

use crate::tracked::Tracked;

#[cfg(tinkers_loom)]
use loom::sync::{Mutex, MutexGuard};
#[cfg(not(tinkers_loom))]
use std::sync::{Mutex, MutexGuard};

/// A registry under test: the real one, or one with a planted fault (negative control). Its values report their lifecycle to a tracker.
pub(crate) trait Subject: Default + Send + Sync + 'static {
    /// The type of the handles of this registry.
    type Handle: Deref<Target = Tracked> + Clone + Send + 'static;

    fn try_get_or_create(
        &self,
        key: usize,
        build: impl FnOnce() -> Result<Tracked, BuildError>,
    ) -> Result<Self::Handle, BuildError>;

    fn get(&self, key: usize) -> Option<Self::Handle>;

    /// Returns the number of keys in use.
    fn len(&self) -> usize;

    /// Returns how often concurrent calls affected each other. For the negative control, returns the number of entries that were
    /// overwritten while a handle existed. Loom models do not use this method.
    #[cfg(not(tinkers_loom))]
    fn contention(&self) -> u64;
}

/// The error that a build function of a test returns on purpose.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BuildError;

impl Subject for Registry<usize, Tracked> {
    type Handle = Handle<usize, Tracked>;

    fn try_get_or_create(
        &self,
        key: usize,
        build: impl FnOnce() -> Result<Tracked, BuildError>,
    ) -> Result<Self::Handle, BuildError> {
        Self::try_get_or_create(self, key, build)
    }

    fn get(&self, key: usize) -> Option<Self::Handle> {
        Self::get(self, &key)
    }

    fn len(&self) -> usize {
        Self::len(self)
    }

    #[cfg(not(tinkers_loom))]
    fn contention(&self) -> u64 {
        Self::contention(self).total()
    }
}

/// A registry with a planted fault that the tests must detect (negative control). It looks up the key, builds the value without a lock, and
/// overwrites a value that another thread has inserted meanwhile. It has no other fault.
#[derive(Default)]
pub(crate) struct CheckThenInsert(Arc<Entries>);

#[derive(Default)]
struct Entries {
    live: Mutex<Vec<Arc<Tracked>>>,
    /// The number of entries of the faulty registry that were overwritten while a handle existed.
    overwritten: AtomicU64,
}

impl Entries {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Tracked>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handle of [`CheckThenInsert`], the registry with a planted fault. Dropping the last handle removes the entry.
pub(crate) struct CheckThenInsertHandle {
    /// The value to which the handle refers. `None` only while the handle is dropped.
    value: Option<Arc<Tracked>>,
    entries: Arc<Entries>,
}

impl Deref for CheckThenInsertHandle {
    type Target = Tracked;

    fn deref(&self) -> &Tracked {
        self.value.as_ref().expect("present until the drop")
    }
}

impl Clone for CheckThenInsertHandle {
    fn clone(&self) -> Self {
        let _live = self.entries.lock();
        Self {
            value: self.value.clone(),
            entries: Arc::clone(&self.entries),
        }
    }
}

impl Drop for CheckThenInsertHandle {
    fn drop(&mut self) {
        let mut live = self.entries.lock();
        self.value = None;
        live.retain(|value| Arc::strong_count(value) > 1);
    }
}

impl CheckThenInsert {
    fn handle(&self, value: Arc<Tracked>) -> CheckThenInsertHandle {
        CheckThenInsertHandle {
            value: Some(value),
            entries: Arc::clone(&self.0),
        }
    }
}

impl Subject for CheckThenInsert {
    type Handle = CheckThenInsertHandle;

    fn try_get_or_create(
        &self,
        key: usize,
        build: impl FnOnce() -> Result<Tracked, BuildError>,
    ) -> Result<CheckThenInsertHandle, BuildError> {
        if let Some(found) = self.get(key) {
            return Ok(found);
        }
        let built = Arc::new(build()?);
        let handle = self.handle(Arc::clone(&built));
        let mut live = self.0.lock();
        let before = live.len();
        live.retain(|value| value.key != key);
        self.0
            .overwritten
            .fetch_add((before - live.len()) as u64, Ordering::Relaxed);
        live.push(built);
        Ok(handle)
    }

    fn get(&self, key: usize) -> Option<CheckThenInsertHandle> {
        let live = self.0.lock();
        let found = live.iter().find(|value| value.key == key)?;
        Some(self.handle(Arc::clone(found)))
    }

    fn len(&self) -> usize {
        self.0.lock().len()
    }

    #[cfg(not(tinkers_loom))]
    fn contention(&self) -> u64 {
        self.0.overwritten.load(Ordering::Relaxed)
    }
}
