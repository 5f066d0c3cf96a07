//! The retry budget, a token bucket.

use crate::word::Word;

/// A token bucket that limits retries: each retry draws tokens, each success returns one.
///
/// The caller decides whether a retry is delayed or refused when the bucket is empty.
#[derive(Debug)]
pub struct RetryBudget {
    tokens: Word,
    capacity: u64,
}

/// The reason for a retry, which determines its cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryReason {
    /// A refusal: free, since the gate paces these retries.
    Refused,
    /// An error response or a failed connection.
    Fault,
    /// A timeout, which holds resources the longest.
    Timeout,
}

impl RetryReason {
    /// Returns the cost of a retry in tokens.
    pub const fn cost(self) -> u64 {
        match self {
            Self::Refused => 0,
            Self::Fault => 5,
            Self::Timeout => 10,
        }
    }
}

/// The result of a draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryDraw {
    /// The tokens were taken.
    Granted,
    /// There were too few tokens, and none were taken.
    Empty,
}

impl RetryBudget {
    /// The capacity in the AWS SDKs: one hundred consecutive errors.
    pub const CAPACITY: u64 = 500;

    /// Creates a full bucket of `capacity` tokens.
    pub fn new(capacity: u64) -> Self {
        Self {
            tokens: Word::new(capacity),
            capacity,
        }
    }

    /// Takes the full cost of a retry, or nothing.
    pub fn draw(&self, failure: RetryReason) -> RetryDraw {
        let drawn = self.tokens.change(|tokens| {
            let left = tokens.checked_sub(failure.cost()).ok_or(())?;
            Ok::<(u64, ()), ()>((left, ()))
        });
        match drawn {
            Ok(()) => RetryDraw::Granted,
            Err(()) => RetryDraw::Empty,
        }
    }

    /// Returns one token, up to the capacity.
    pub fn credit(&self) {
        // A full bucket is the common case and needs no write.
        let _full = self.tokens.change(|tokens| {
            if tokens < self.capacity {
                Ok((tokens + 1, ()))
            } else {
                Err(())
            }
        });
    }

    /// Returns the number of tokens.
    pub fn tokens(&self) -> u64 {
        self.tokens.load()
    }

    /// Returns the number of exchanges lost to another thread.
    #[cfg(feature = "contention")]
    pub fn contention(&self) -> u64 {
        self.tokens.lost()
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self::new(Self::CAPACITY)
    }
}

#[cfg(all(test, not(tinkers_loom)))]
mod tests {
    use super::*;

    #[test]
    fn failed_draw_takes_no_tokens() {
        let budget = RetryBudget::new(19);
        assert_eq!(budget.draw(RetryReason::Timeout), RetryDraw::Granted);
        assert_eq!(budget.draw(RetryReason::Timeout), RetryDraw::Empty);
        assert_eq!(budget.tokens(), 9);
        assert_eq!(budget.draw(RetryReason::Fault), RetryDraw::Granted);
        assert_eq!(budget.draw(RetryReason::Fault), RetryDraw::Empty);
        assert_eq!(budget.tokens(), 4);
        // Retries of refusals are free, so they never fail.
        assert_eq!(budget.draw(RetryReason::Refused), RetryDraw::Granted);
        assert_eq!(budget.tokens(), 4);
    }

    #[test]
    fn credit_stops_at_the_capacity() {
        let budget = RetryBudget::new(10);
        budget.credit();
        assert_eq!(budget.tokens(), 10);
        assert_eq!(budget.draw(RetryReason::Fault), RetryDraw::Granted);
        for _ in 0..6 {
            budget.credit();
        }
        assert_eq!(budget.tokens(), 10);
    }

    #[test]
    fn concurrent_draws_take_exactly_the_available_tokens() {
        let budget = RetryBudget::new(1_000);
        let granted: u64 = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        (0..1_000)
                            .filter(|_| budget.draw(RetryReason::Fault) == RetryDraw::Granted)
                            .count() as u64
                    })
                })
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().expect("no panic"))
                .sum()
        });
        assert_eq!(granted, 200);
        assert_eq!(budget.tokens(), 0);
    }

    #[test]
    fn concurrent_draws_and_credits_balance() {
        // The initial draws ensure that no credit finds a full bucket; the capacity ensures that no draw fails.
        let budget = RetryBudget::new(1_000_000);
        for _ in 0..10_000 {
            assert_eq!(budget.draw(RetryReason::Timeout), RetryDraw::Granted);
        }
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        assert_eq!(budget.draw(RetryReason::Timeout), RetryDraw::Granted);
                    }
                });
                scope.spawn(|| (0..5_000).for_each(|_| budget.credit()));
            }
        });
        assert_eq!(budget.tokens(), 1_000_000 - 100_000 - 200_000 + 20_000);
    }
}
