//! The atomic word on which all primitives of this crate are built.

use crate::backoff::CasBackoff;
use crate::sync::{AtomicU64, Ordering};

/// A 64-bit word that threads change by compare-and-swap. All shared state of this crate consists of such words.
#[derive(Debug)]
pub(crate) struct Word {
    bits: AtomicU64,
    #[cfg(feature = "contention")]
    lost: std::sync::atomic::AtomicU64,
}

impl Word {
    pub(crate) fn new(bits: u64) -> Self {
        Self {
            bits: AtomicU64::new(bits),
            #[cfg(feature = "contention")]
            lost: std::sync::atomic::AtomicU64::new(0),
        }
    }

    pub(crate) fn load(&self) -> u64 {
        self.bits.load(Ordering::Acquire)
    }

    /// Replaces the word by the first result of `change`, and returns the second result. Leaves the word unchanged if `change` returns an
    /// error. `change` may run several times, so it must have no side effects.
    pub(crate) fn change<T, E>(
        &self,
        mut change: impl FnMut(u64) -> Result<(u64, T), E>,
    ) -> Result<T, E> {
        let mut backoff = CasBackoff::new();
        let mut before = self.load();
        loop {
            let (after, result) = change(before)?;
            match self.bits.compare_exchange_weak(
                before,
                after,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return Ok(result),
                Err(now) => {
                    // A weak exchange may fail without another thread.
                    if now != before {
                        self.note_loss();
                    }
                    before = now;
                }
            }
            backoff.lost();
        }
    }

    /// Replaces the word by the first result of `change`, which cannot fail, and returns the second result.
    pub(crate) fn set<T>(&self, mut change: impl FnMut(u64) -> (u64, T)) -> T {
        let changed: Result<T, std::convert::Infallible> = self.change(|word| Ok(change(word)));
        match changed {
            Ok(result) => result,
        }
    }

    fn note_loss(&self) {
        #[cfg(feature = "contention")]
        self.lost.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    /// Returns how many compare-and-swap attempts have failed so far because another thread changed the value first.
    #[cfg(feature = "contention")]
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(std::sync::atomic::Ordering::Relaxed)
    }
}

#[cfg(all(test, not(tinkers_loom)))]
mod tests {
    use super::*;

    #[test]
    fn no_concurrent_change_of_a_word_is_lost() {
        let word = Word::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..10_000).for_each(|_| word.set(|n| (n + 1, ()))));
            }
        });
        assert_eq!(word.load(), 80_000);
    }

    #[test]
    #[cfg(feature = "contention")]
    fn failed_compare_and_swap_of_a_word_is_counted() {
        let word = Word::new(0);
        (0..100).for_each(|_| word.set(|n| (n + 1, ())));
        assert_eq!(word.lost(), 0, "without contention");
        let mut is_first = true;
        word.set(|n| {
            if std::mem::take(&mut is_first) {
                // Another change happens between the load and the exchange.
                word.set(|n| (n + 10, ()));
            }
            (n + 1, ())
        });
        assert_eq!((word.lost(), word.load()), (1, 111));
    }

    #[test]
    fn failed_change_leaves_the_atomic_word_unchanged() {
        let word = Word::new(7);
        assert_eq!(word.change(Err::<(u64, ()), u64>), Err(7));
        assert_eq!(word.set(|n| (n + 1, n)), 7);
        assert_eq!(word.load(), 8);
    }
}
