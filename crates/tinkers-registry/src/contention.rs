//! Counters of contention between calls, which show whether a stress test has tested anything.

use std::sync::atomic::{AtomicU64, Ordering};

/// How often concurrent calls of a registry affected each other since its creation.
///
/// For stress tests: a test in which all of these numbers are zero has tested nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Contention {
    /// The number of compare-and-swap operations on the reference count of an entry that failed because of another thread.
    pub lost_exchanges: u64,
    /// The number of lookups that found an entry whose last handle had just been dropped by another thread.
    pub expired_entries: u64,
    /// The number of calls that waited while another thread built the value.
    pub build_waits: u64,
}

impl Contention {
    /// Returns the total number of times that concurrent calls affected each other.
    pub fn total(&self) -> u64 {
        self.lost_exchanges + self.expired_entries + self.build_waits
    }
}

/// The atomic counters behind [`Contention`]. The counters are written only on contention, so other lookups are not slower. Relaxed
/// ordering is enough, since the counters order no other memory. The atomics are those of `std` and not of loom, since no decision depends
/// on the counters.
#[derive(Default)]
pub(crate) struct Counters {
    lost_exchanges: AtomicU64,
    expired_entries: AtomicU64,
    build_waits: AtomicU64,
}

impl Counters {
    pub(crate) fn lost_exchanges(&self) {
        self.lost_exchanges.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn expired_entries(&self) {
        self.expired_entries.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn build_waits(&self) {
        self.build_waits.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Contention {
        Contention {
            lost_exchanges: self.lost_exchanges.load(Ordering::Relaxed),
            expired_entries: self.expired_entries.load(Ordering::Relaxed),
            build_waits: self.build_waits.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_contention_counter_counts_its_own_kind_of_contention() {
        let counters = Counters::default();
        counters.lost_exchanges();
        counters.expired_entries();
        counters.expired_entries();
        for _ in 0..3 {
            counters.build_waits();
        }
        let expected = Contention {
            lost_exchanges: 1,
            expired_entries: 2,
            build_waits: 3,
        };
        assert_eq!(counters.read(), expected);
        assert_eq!(expected.total(), 6);
    }
}
