//! The byte budget: a balance that may become negative, and from which requests are charged while it is positive.

use crate::window::Full;
use crate::word::Word;

/// A soft limit on the number of bytes that are being sent. A request is admitted while the balance (the remaining bytes) is positive, and
/// is then charged for its whole body. So a body that is larger than the whole budget is also admitted, and the total exceeds the budget by
/// at most one body.
#[derive(Debug)]
pub struct ByteBudget {
    /// The remaining bytes as a signed number: the budget minus all charges.
    balance: Word,
    size: Word,
}

impl ByteBudget {
    /// The largest budget. It means that there is no limit.
    pub const UNLIMITED: u64 = i64::MAX as u64 / 2;

    /// Creates a budget of `size` bytes, clamped to 1 ..= [`ByteBudget::UNLIMITED`].
    pub fn new(size: u64) -> Self {
        let size = clamp(size);
        Self {
            balance: Word::new(size),
            size: Word::new(size),
        }
    }

    /// Takes `bytes` from the budget. Succeeds if any bytes remain, even if `bytes` is more than the remaining number. Zero bytes can
    /// always be taken. The caller must later release the same number of bytes.
    ///
    /// # Errors
    /// `Full` if no bytes remain.
    #[inline]
    pub fn take(&self, bytes: u64) -> Result<(), Full> {
        let bytes = clamp_charge(bytes);
        if bytes == 0 {
            return Ok(());
        }
        self.balance.change(|balance| take(balance, bytes))
    }

    /// Gives `bytes`, which were taken earlier, back to the budget.
    #[inline]
    pub fn release(&self, bytes: u64) {
        let bytes = clamp_charge(bytes);
        if bytes > 0 {
            self.balance
                .set(|balance| (balance.wrapping_add(bytes), ()));
        }
    }

    /// Changes the size of the budget. Bytes that are taken at present stay taken.
    pub fn resize(&self, size: u64) {
        let size = clamp(size);
        let before = self.size.set(|before| (size, before));
        let more = size.wrapping_sub(before);
        self.balance.set(|balance| (balance.wrapping_add(more), ()));
    }

    /// Returns the number of bytes that are taken from the budget at present.
    pub fn taken(&self) -> u64 {
        let left = self.balance.load() as i64;
        u64::try_from((self.size.load() as i64).saturating_sub(left)).unwrap_or(0)
    }

    /// Returns whether any bytes remain in the budget, so that a request would be admitted.
    pub fn has_any(&self) -> bool {
        self.balance.load() as i64 > 0
    }

    /// Returns how many compare-and-swap attempts have failed so far because another thread changed the value first.
    #[cfg(feature = "contention")]
    pub fn contention(&self) -> u64 {
        self.balance.lost()
    }
}

/// Returns the balance (the remaining bytes of the budget) after taking `bytes`, or `Full` if the balance is not positive before.
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

/// Limits `bytes`, the size of a request body, so that the balance of the budget cannot overflow. No real body is that large.
fn clamp_charge(bytes: u64) -> u64 {
    bytes.min(ByteBudget::UNLIMITED)
}

#[cfg(all(test, not(tinkers_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn body_larger_than_the_byte_budget_is_admitted_alone() {
        let budget = ByteBudget::new(10);
        assert_eq!(budget.take(1_000), Ok(()));
        assert_eq!(budget.take(1), Err(Full));
        assert_eq!(budget.take(0), Ok(()), "zero bytes are always admitted");
        assert_eq!(budget.taken(), 1_000);
        budget.release(1_000);
        assert_eq!((budget.taken(), budget.has_any()), (0, true));
        assert_eq!(budget.take(u64::MAX), Ok(()));
        budget.release(u64::MAX);
        assert_eq!(budget.taken(), 0);
    }

    #[test]
    fn unlimited_byte_budget_admits_any_body() {
        let budget = ByteBudget::new(ByteBudget::UNLIMITED);
        for taken in 1..=4 {
            assert_eq!(budget.take(1 << 50), Ok(()));
            assert_eq!(budget.taken(), taken << 50);
        }
        assert!(budget.has_any());
    }

    #[test]
    fn bytes_in_use_stay_charged_when_a_byte_budget_shrinks() {
        let budget = ByteBudget::new(100);
        assert_eq!(budget.take(60), Ok(()));
        budget.resize(50);
        assert_eq!((budget.taken(), budget.take(1)), (60, Err(Full)));
        budget.release(60);
        assert_eq!((budget.taken(), budget.take(1)), (0, Ok(())));
    }

    proptest! {
        #[test]
        fn bytes_in_use_exceed_the_budget_by_at_most_one_body(
            size in 1u64..1_000,
            steps in prop::collection::vec((0u64..500, any::<bool>()), 0..200),
        ) {
            let budget = ByteBudget::new(size);
            let mut held = Vec::new();
            for (bytes, is_release) in steps {
                if is_release {
                    if let Some(bytes) = held.pop() {
                        budget.release(bytes);
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
