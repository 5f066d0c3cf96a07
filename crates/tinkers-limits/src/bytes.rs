//! A budget of bytes: a balance that is charged in full as long as it is above zero.

use crate::window::Full;
use crate::word::Word;

/// Bytes that may be under way. Soft: whoever comes while the balance is above zero passes and is charged in full, so what is
/// larger than the whole budget passes too, and the total overshoots by one at most.
#[derive(Debug)]
pub struct ByteBudget {
    /// What is left, as a signed number: the size less all that is taken.
    balance: Word,
    size: Word,
}

impl ByteBudget {
    /// The largest budget, which stands for none.
    pub const UNLIMITED: u64 = i64::MAX as u64 / 2;

    /// A budget of `size` bytes, at least 1 and at most [`ByteBudget::UNLIMITED`].
    pub fn new(size: u64) -> Self {
        let size = clamp(size);
        Self {
            balance: Word::new(size),
            size: Word::new(size),
        }
    }

    /// Takes `bytes`, all of them, if anything is left. What is taken must be given back as it is.
    #[inline]
    pub fn take(&self, bytes: u64) -> Result<(), Full> {
        let bytes = clamp_charge(bytes);
        if bytes == 0 {
            return Ok(());
        }
        self.balance.change(|balance| take(balance, bytes))
    }

    /// Gives back what a take took.
    #[inline]
    pub fn give_back(&self, bytes: u64) {
        let bytes = clamp_charge(bytes);
        if bytes > 0 {
            self.balance
                .set(|balance| (balance.wrapping_add(bytes), ()));
        }
    }

    /// Another size. What is taken stays taken.
    pub fn resize(&self, size: u64) {
        let size = clamp(size);
        let before = self.size.set(|before| (size, before));
        let more = size.wrapping_sub(before);
        self.balance.set(|balance| (balance.wrapping_add(more), ()));
    }

    /// How many bytes are taken.
    pub fn taken(&self) -> u64 {
        let left = self.balance.load() as i64;
        u64::try_from((self.size.load() as i64).saturating_sub(left)).unwrap_or(0)
    }

    /// Whether anything is left.
    pub fn has_any(&self) -> bool {
        self.balance.load() as i64 > 0
    }

    /// How many exchanges lost to another thread.
    #[cfg(feature = "contention")]
    pub fn contention(&self) -> u64 {
        self.balance.lost()
    }
}

/// The transition of a take.
const fn take(balance: u64, bytes: u64) -> Result<(u64, ()), Full> {
    if balance as i64 > 0 {
        Ok((balance.wrapping_sub(bytes), ()))
    } else {
        Err(Full)
    }
}

fn clamp(size: u64) -> u64 {
    size.clamp(1, ByteBudget::UNLIMITED)
}

/// A body is never larger than this; a charge that is leaves the balance within its word.
fn clamp_charge(bytes: u64) -> u64 {
    bytes.min(ByteBudget::UNLIMITED)
}

#[cfg(all(test, not(tinkers_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_passes_what_is_larger_than_itself_once() {
        let budget = ByteBudget::new(10);
        assert_eq!(budget.take(1_000), Ok(()));
        assert_eq!(budget.take(1), Err(Full));
        assert_eq!(budget.take(0), Ok(()), "nothing is always there");
        assert_eq!(budget.taken(), 1_000);
        budget.give_back(1_000);
        assert_eq!((budget.taken(), budget.has_any()), (0, true));
        assert_eq!(budget.take(u64::MAX), Ok(()));
        budget.give_back(u64::MAX);
        assert_eq!(budget.taken(), 0);
    }

    #[test]
    fn budget_without_a_limit_takes_any_body() {
        let budget = ByteBudget::new(ByteBudget::UNLIMITED);
        for taken in 1..=4 {
            assert_eq!(budget.take(1 << 50), Ok(()));
            assert_eq!(budget.taken(), taken << 50);
        }
        assert!(budget.has_any());
    }

    #[test]
    fn a_smaller_size_keeps_what_is_taken() {
        let budget = ByteBudget::new(100);
        assert_eq!(budget.take(60), Ok(()));
        budget.resize(50);
        assert_eq!((budget.taken(), budget.take(1)), (60, Err(Full)));
        budget.give_back(60);
        assert_eq!((budget.taken(), budget.take(1)), (0, Ok(())));
    }

    proptest! {
        #[test]
        fn charges_balance_and_overshoot_by_one_at_most(
            size in 1u64..1_000,
            steps in prop::collection::vec((0u64..500, any::<bool>()), 0..200),
        ) {
            let budget = ByteBudget::new(size);
            let mut held = Vec::new();
            for (bytes, gives_back) in steps {
                if gives_back {
                    if let Some(bytes) = held.pop() {
                        budget.give_back(bytes);
                    }
                } else if budget.take(bytes).is_ok() {
                    held.push(bytes);
                }
                let sum: u64 = held.iter().sum();
                let largest = held.iter().max().copied().unwrap_or(0);
                prop_assert_eq!(budget.taken(), sum);
                prop_assert!(sum.saturating_sub(largest) < size);
            }
        }
    }
}
