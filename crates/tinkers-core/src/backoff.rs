//! Exponential backoff, as a pure function of the number of retries.

use std::time::Duration;

/// Exponential backoff: pauses before retries, which double from a first pause up to a maximum. The pauses contain no jitter; callers add
/// it with `Jitter::stretch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    max: Duration,
}

impl Backoff {
    /// Returns a backoff whose pauses double from `first` up to `max`.
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max }
    }

    /// Returns the pause before the first retry.
    pub const fn first(self) -> Duration {
        self.first
    }

    /// Returns the longest pause between retries.
    pub const fn longest(self) -> Duration {
        self.max
    }

    /// Returns the pause before a retry: the first pause if `number` is 0, twice as long for each further retry, and at most the longest
    /// pause.
    pub fn pause(self, number: u32) -> Duration {
        self.first.saturating_mul(1 << number.min(31)).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_pauses_double_up_to_the_maximum() {
        let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        let seconds = |number| backoff.pause(number).as_secs_f64();
        let pauses: Vec<f64> = (0..9).map(seconds).collect();
        assert_eq!(pauses, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]);
        assert_eq!(seconds(u32::MAX), 30.0);
    }
}
