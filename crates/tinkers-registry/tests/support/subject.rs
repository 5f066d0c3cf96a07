//! What the proofs run on: the registry, and one with the fault that they must find.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use tinkers_registry::{Handle, Registry};

use crate::probe::Probe;

#[cfg(tinkers_loom)]
use loom::sync::{Mutex, MutexGuard};
#[cfg(not(tinkers_loom))]
use std::sync::{Mutex, MutexGuard};

/// A registry of probes.
pub(crate) trait Subject: Default + Send + Sync + 'static {
    /// A share in a probe.
    type Share: Deref<Target = Probe> + Clone + Send + 'static;

    fn try_get_or_create(
        &self,
        key: usize,
        build: impl FnOnce() -> Result<Probe, Refused>,
    ) -> Result<Self::Share, Refused>;

    fn get(&self, key: usize) -> Option<Self::Share>;

    /// How many keys are in use.
    fn len(&self) -> usize;

    /// How often threads met in it. Models try every meeting and need no count.
    #[cfg(not(tinkers_loom))]
    fn collisions(&self) -> u64;
}

/// The error of a builder that fails on purpose.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused;

impl Subject for Registry<usize, Probe> {
    type Share = Handle<usize, Probe>;

    fn try_get_or_create(
        &self,
        key: usize,
        build: impl FnOnce() -> Result<Probe, Refused>,
    ) -> Result<Self::Share, Refused> {
        Self::try_get_or_create(self, key, build)
    }

    fn get(&self, key: usize) -> Option<Self::Share> {
        Self::get(self, &key)
    }

    fn len(&self) -> usize {
        Self::len(self)
    }

    #[cfg(not(tinkers_loom))]
    fn collisions(&self) -> u64 {
        Self::collisions(self).total()
    }
}

/// The negative control: it looks, builds without the lock, and inserts over whatever came in between. Nothing else is
/// wrong with it, so that what a proof finds is that.
#[derive(Default)]
pub(crate) struct CheckThenInsert(Arc<Entries>);

#[derive(Default)]
struct Entries {
    live: Mutex<Vec<Arc<Probe>>>,
    /// How often an entry was inserted over one that was in use.
    overwritten: AtomicU64,
}

impl Entries {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Probe>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A share in a probe of [`CheckThenInsert`]; the last takes the entry out.
pub(crate) struct Share {
    /// There until the drop.
    probe: Option<Arc<Probe>>,
    entries: Arc<Entries>,
}

impl Deref for Share {
    type Target = Probe;

    fn deref(&self) -> &Probe {
        self.probe.as_ref().expect("it is there until the drop")
    }
}

impl Clone for Share {
    fn clone(&self) -> Self {
        let _live = self.entries.lock();
        Self {
            probe: self.probe.clone(),
            entries: Arc::clone(&self.entries),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut live = self.entries.lock();
        self.probe = None;
        live.retain(|probe| Arc::strong_count(probe) > 1);
    }
}

impl CheckThenInsert {
    fn share(&self, probe: Arc<Probe>) -> Share {
        Share {
            probe: Some(probe),
            entries: Arc::clone(&self.0),
        }
    }
}

impl Subject for CheckThenInsert {
    type Share = Share;

    fn try_get_or_create(
        &self,
        key: usize,
        build: impl FnOnce() -> Result<Probe, Refused>,
    ) -> Result<Share, Refused> {
        if let Some(found) = self.get(key) {
            return Ok(found);
        }
        let built = Arc::new(build()?);
        let share = self.share(Arc::clone(&built));
        let mut live = self.0.lock();
        let before = live.len();
        live.retain(|probe| probe.key != key);
        self.0
            .overwritten
            .fetch_add((before - live.len()) as u64, Ordering::Relaxed);
        live.push(built);
        Ok(share)
    }

    fn get(&self, key: usize) -> Option<Share> {
        let live = self.0.lock();
        let found = live.iter().find(|probe| probe.key == key)?;
        Some(self.share(Arc::clone(found)))
    }

    fn len(&self) -> usize {
        self.0.lock().len()
    }

    #[cfg(not(tinkers_loom))]
    fn collisions(&self) -> u64 {
        self.0.overwritten.load(Ordering::Relaxed)
    }
}
