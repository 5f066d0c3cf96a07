//! The retry budget, a token bucket.

use crate::word::Word;

/// A token bucket that limits retries: each retry takes tokens, and each successful call returns one token.
///
/// If the bucket has too few tokens for a retry, the caller decides whether that retry is delayed or refused.
#[derive(Debug)]
pub struct RetryBudget {
    tokens: Word,
    capacity: u64,
}

/// The reason for a retry. The reason determines the number of tokens that the retry takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryReason {
    /// A rate-limited response (429). Such a retry takes no tokens: the gate, which is closed after the response, already limits the rate
    /// of these retries.
    Refused,
    /// An error response or a failed connection.
    Fault,
    /// A timeout. A retry after a timeout takes more tokens than any other, since a request that times out holds resources the longest.
    Timeout,
}

impl RetryReason {
    /// Returns the number of tokens that a retry with this reason takes from the budget.
    pub const fn cost(self) -> u64 {
        match self {
            Self::Refused => 0,
            Self::Fault => 5,
            Self::Timeout => 10,
        }
    }
}

/// The result of taking tokens from a retry budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryDraw {
    /// The tokens were taken.
    Granted,
    /// The bucket had too few tokens, and none were taken.
    Empty,
}

impl RetryBudget {
    /// The default capacity: 500 tokens, as in the AWS SDKs. They suffice for the retries of one hundred consecutive errors.
    pub const CAPACITY: u64 = 500;

    /// Creates a full bucket of `capacity` tokens.
    pub fn new(capacity: u64) -> Self {
        Self {
            tokens: Word::new(capacity),
            capacity,
        }
    }

    /// Takes the tokens for a retry whose reason is `failure`. If there are too few tokens, takes none.
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

    /// Adds one token to the bucket, up to its capacity. To be called after each successful call.
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

    /// Returns the number of tokens in the bucket.
    pub fn tokens(&self) -> u64 {
        self.tokens.load()
    }

    /// Returns how many compare-and-swap attempts have failed so far because another thread changed the value first.
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
    fn no_retry_tokens_are_taken_if_the_budget_has_too_few() {
        let budget = RetryBudget::new(19);
        assert_eq!(budget.draw(RetryReason::Timeout), RetryDraw::Granted);
        assert_eq!(budget.draw(RetryReason::Timeout), RetryDraw::Empty);
        assert_eq!(budget.tokens(), 9);
        assert_eq!(budget.draw(RetryReason::Fault), RetryDraw::Granted);
        assert_eq!(budget.draw(RetryReason::Fault), RetryDraw::Empty);
        assert_eq!(budget.tokens(), 4);
        // Retries after rate-limited responses are free, so they are granted even with an empty bucket.
        assert_eq!(budget.draw(RetryReason::Refused), RetryDraw::Granted);
        assert_eq!(budget.tokens(), 4);
    }

    #[test]
    fn retry_budget_never_exceeds_its_capacity() {
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
    fn concurrent_retries_take_exactly_the_available_retry_tokens() {
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
    fn no_retry_token_is_lost_by_concurrent_retries_and_successes() {
        // The first draws ensure that no credit finds a full bucket, and the capacity ensures that no draw fails.
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
