//! The token bucket that repeats draw on.

use crate::word::Word;

/// A shared allowance for repeats: failures draw from it, successes pay a little back.
///
/// Whether a repeat that found it empty is slowed or refused is the caller's decision.
#[derive(Debug)]
pub struct RetryBudget {
    tokens: Word,
    capacity: u64,
}

/// Why a request is repeated: what it costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Refused for the rate: free, since the gate paces these.
    Refused,
    /// An answer that says no, or a broken connection.
    Fault,
    /// No answer in time: these hold resources the longest.
    Timeout,
}

impl Failure {
    /// What a repeat after it costs, in tokens.
    pub const fn cost(self) -> u64 {
        match self {
            Self::Refused => 0,
            Self::Fault => 5,
            Self::Timeout => 10,
        }
    }
}

/// Whether there was enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drawn {
    /// The cost was taken.
    Granted,
    /// There was less than the cost, and nothing was taken.
    Empty,
}

impl RetryBudget {
    /// The capacity of the budget that the AWS SDKs use: a hundred faults in a row.
    pub const CAPACITY: u64 = 500;

    /// A full bucket of `capacity` tokens.
    pub fn new(capacity: u64) -> Self {
        Self {
            tokens: Word::new(capacity),
            capacity,
        }
    }

    /// Takes the whole cost of a repeat, or nothing.
    pub fn draw(&self, failure: Failure) -> Drawn {
        let drawn = self.tokens.change(|tokens| {
            let left = tokens.checked_sub(failure.cost()).ok_or(())?;
            Ok::<(u64, ()), ()>((left, ()))
        });
        match drawn {
            Ok(()) => Drawn::Granted,
            Err(()) => Drawn::Empty,
        }
    }

    /// Pays one token back, up to the capacity.
    pub fn credit(&self) {
        // A full bucket is the common case and stays a read.
        let _full = self.tokens.change(|tokens| {
            if tokens < self.capacity {
                Ok((tokens + 1, ()))
            } else {
                Err(())
            }
        });
    }

    /// How much is left.
    pub fn tokens(&self) -> u64 {
        self.tokens.load()
    }

    /// How many exchanges lost to another thread.
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
    fn an_empty_budget_stays_at_what_it_has() {
        let budget = RetryBudget::new(19);
        assert_eq!(budget.draw(Failure::Timeout), Drawn::Granted);
        assert_eq!(budget.draw(Failure::Timeout), Drawn::Empty);
        assert_eq!(budget.tokens(), 9);
        assert_eq!(budget.draw(Failure::Fault), Drawn::Granted);
        assert_eq!(budget.draw(Failure::Fault), Drawn::Empty);
        assert_eq!(budget.tokens(), 4);
        // Refusals for the rate never draw, so they never find it empty.
        assert_eq!(budget.draw(Failure::Refused), Drawn::Granted);
        assert_eq!(budget.tokens(), 4);
    }

    #[test]
    fn credit_stops_at_the_capacity() {
        let budget = RetryBudget::new(10);
        budget.credit();
        assert_eq!(budget.tokens(), 10);
        assert_eq!(budget.draw(Failure::Fault), Drawn::Granted);
        for _ in 0..6 {
            budget.credit();
        }
        assert_eq!(budget.tokens(), 10);
    }

    #[test]
    fn threads_draw_exactly_what_is_there() {
        let budget = RetryBudget::new(1_000);
        let granted: u64 = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        (0..1_000)
                            .filter(|_| budget.draw(Failure::Fault) == Drawn::Granted)
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
    fn draws_and_credits_of_threads_balance() {
        // So much is drawn first that no credit meets a full bucket, and so much is left that no draw finds too little.
        let budget = RetryBudget::new(1_000_000);
        for _ in 0..10_000 {
            assert_eq!(budget.draw(Failure::Timeout), Drawn::Granted);
        }
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        assert_eq!(budget.draw(Failure::Timeout), Drawn::Granted);
                    }
                });
                scope.spawn(|| (0..5_000).for_each(|_| budget.credit()));
            }
        });
        assert_eq!(budget.tokens(), 1_000_000 - 100_000 - 200_000 + 20_000);
    }
}
