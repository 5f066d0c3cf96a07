//! The retry budget behind the seam of core.

use tinkers_core::{ErrorKind, RetryBudget, retry::Draw};
use tinkers_limits::{Drawn, Failure};

/// The allowance for repeats that all clients of one endpoint share.
#[derive(Debug, Default)]
pub struct SharedRetryBudget {
    bucket: tinkers_limits::RetryBudget,
}

impl SharedRetryBudget {
    /// A full budget of `tokens`.
    pub fn new(tokens: u64) -> Self {
        Self {
            bucket: tinkers_limits::RetryBudget::new(tokens),
        }
    }

    /// How much is left.
    pub fn tokens(&self) -> u64 {
        self.bucket.tokens()
    }
}

impl RetryBudget for SharedRetryBudget {
    fn draw(&self, kind: ErrorKind) -> Draw {
        let failure = match kind {
            ErrorKind::RateLimited => Failure::Refused,
            ErrorKind::Timeout => Failure::Timeout,
            _ => Failure::Fault,
        };
        match self.bucket.draw(failure) {
            Drawn::Granted => Draw::Granted,
            Drawn::Empty => Draw::Empty,
        }
    }

    fn credit(&self) {
        self.bucket.credit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_cost_most_and_refusals_for_the_rate_nothing() {
        let budget = SharedRetryBudget::new(20);
        for (kind, left) in [
            (ErrorKind::RateLimited, 20),
            (ErrorKind::Timeout, 10),
            (ErrorKind::Connection, 5),
            (ErrorKind::Server, 0),
        ] {
            assert_eq!(budget.draw(kind), Draw::Granted, "{kind:?}");
            assert_eq!(budget.tokens(), left, "{kind:?}");
        }
        assert_eq!(budget.draw(ErrorKind::Server), Draw::Empty);
        assert_eq!(budget.draw(ErrorKind::RateLimited), Draw::Granted);
        budget.credit();
        assert_eq!(budget.tokens(), 1);
    }
}
