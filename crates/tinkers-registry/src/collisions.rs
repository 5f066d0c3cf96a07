//! How often calls met each other, which says whether a test has tested anything.

use std::sync::atomic::{AtomicU64, Ordering};

/// How often calls of a registry came in each other's way since it was made.
///
/// A test that ran threads against each other and sees only zeros here has shown nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collisions {
    /// Another changed the number of holders between reading it and raising it.
    pub overtaken: u64,
    /// The entry that was found had just lost its last holder.
    pub departed: u64,
    /// Another was building the value that was asked for.
    pub waited: u64,
}

impl Collisions {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.overtaken + self.departed + self.waited
    }
}

/// The same as counters. They are written only where calls met, so that a look-up that meets nobody does not pay for
/// them; relaxed, since they say nothing about any other memory; and not loom's, since no decision depends on them.
#[derive(Default)]
pub(crate) struct Counters {
    overtaken: AtomicU64,
    departed: AtomicU64,
    waited: AtomicU64,
}

impl Counters {
    pub(crate) fn overtaken(&self) {
        self.overtaken.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn departed(&self) {
        self.departed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn waited(&self) {
        self.waited.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Collisions {
        Collisions {
            overtaken: self.overtaken.load(Ordering::Relaxed),
            departed: self.departed.load(Ordering::Relaxed),
            waited: self.waited.load(Ordering::Relaxed),
        }
    }
}
