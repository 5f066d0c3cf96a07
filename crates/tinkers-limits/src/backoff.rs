//! What a thread does after it lost a compare-and-swap.

use std::sync::atomic::{AtomicU64, Ordering};

/// Spins a little longer after each lost exchange, then lets other threads run.
///
/// The pauses are bounded, so no thread waits long for a word that is free again.
#[derive(Debug, Default)]
pub struct CasBackoff {
    lost: u32,
}

impl CasBackoff {
    /// After this many losses the thread yields instead of spinning.
    const SPINS: u32 = 6;

    /// Nothing lost yet.
    pub const fn new() -> Self {
        Self { lost: 0 }
    }

    /// To be called after each loss, before the next attempt.
    pub fn lost(&mut self) {
        if self.lost < Self::SPINS {
            for _ in 0..1u32 << self.lost {
                std::hint::spin_loop();
            }
            self.lost += 1;
        } else {
            std::thread::yield_now();
        }
    }
}

/// Replaces the word by what `change` makes of it, or leaves it when that is nothing. Gives the value before and after.
///
/// `change` may run several times and must be a pure function.
pub(crate) fn update(
    word: &AtomicU64,
    mut change: impl FnMut(u64) -> Option<u64>,
) -> Result<(u64, u64), u64> {
    let mut backoff = CasBackoff::new();
    let mut before = word.load(Ordering::Acquire);
    loop {
        let Some(after) = change(before) else {
            return Err(before);
        };
        match word.compare_exchange_weak(before, after, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Ok((before, after)),
            Err(now) => before = now,
        }
        backoff.lost();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_update_is_lost_between_threads() {
        let word = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        update(&word, |n| Some(n + 1)).expect("always changes");
                    }
                });
            }
        });
        assert_eq!(word.load(Ordering::Relaxed), 80_000);
    }

    #[test]
    fn a_change_to_nothing_leaves_the_word() {
        let word = AtomicU64::new(7);
        assert_eq!(update(&word, |_| None), Err(7));
        assert_eq!(update(&word, |n| (n > 6).then_some(1)), Ok((7, 1)));
        assert_eq!(word.load(Ordering::Relaxed), 1);
    }
}
