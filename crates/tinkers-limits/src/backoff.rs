//! What a thread does after it lost a compare-and-swap.

use crate::sync::{spin_loop, yield_now};

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
                spin_loop();
            }
            self.lost += 1;
        } else {
            yield_now();
        }
    }
}
