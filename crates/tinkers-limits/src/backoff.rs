//! Backoff after a lost compare-and-swap.

use crate::sync::{spin_loop, yield_now};

/// A backoff for threads that change the same atomic word. After each lost compare-and-swap the thread spins for twice as long as before,
/// and after several it yields to other threads.
///
/// Each pause is bounded, so no thread waits long for a word that no other thread changes any more.
#[derive(Debug, Default)]
pub struct CasBackoff {
    lost: u32,
}

impl CasBackoff {
    /// The number of lost compare-and-swap attempts after which the thread yields instead of spinning.
    const SPINS: u32 = 6;

    /// Creates a backoff for a thread that has not lost a compare-and-swap yet.
    pub const fn new() -> Self {
        Self { lost: 0 }
    }

    /// Pauses after a lost compare-and-swap. Call it before the next attempt.
    pub fn lost(&mut self) {
        if self.lost < Self::SPINS {
            for _ in 0..1u32 << self.lost {
                spin_loop();
            }
            self.lost += 1;
        } else {
            yield_now();
        }
    }
}
