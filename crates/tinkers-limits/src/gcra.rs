//! An optional rate limit beside the window: so many requests a second, with a burst.

use std::time::Duration;

use crate::word::Word;

/// A rate and how much of it may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The time that one unit takes at this rate; above zero.
    pub interval: Duration,
    /// Units that may come at once after a pause; at least 1.
    pub burst: u32,
}

/// Why something may not go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It may at this time, if nothing else goes before.
    NotUntil(Duration),
    /// It is more than may ever go at once.
    Never,
}

/// The generic cell rate algorithm: one word, the time at which all that was let through is paid for.
#[derive(Debug)]
pub struct Gcra {
    /// Nanoseconds from the clock's origin.
    paid_at: Word,
    interval: u64,
    burst: u64,
}

impl Gcra {
    /// A limit that has let nothing through yet.
    pub fn new(rate: Rate) -> Self {
        Self {
            paid_at: Word::new(0),
            interval: nanos(rate.interval).max(1),
            burst: u64::from(rate.burst.max(1)),
        }
    }

    /// Lets `units` through at `now`, or says when they may go.
    pub fn take(&self, units: u32, now: Duration) -> Result<(), Refusal> {
        let (units, now) = (u64::from(units), nanos(now));
        if units > self.burst {
            return Err(Refusal::Never);
        }
        let cost = self.interval.saturating_mul(units);
        let tolerance = self.interval.saturating_mul(self.burst);
        self.paid_at
            .change(|paid_at| take(paid_at, now, cost, tolerance))
    }

    /// Takes back what was let through and did not go.
    pub fn undo(&self, units: u32) {
        let cost = self.interval.saturating_mul(units.into());
        self.paid_at
            .set(|paid_at| (paid_at.saturating_sub(cost), ()));
    }

    /// How many exchanges lost to another thread.
    #[cfg(feature = "contention")]
    pub fn contention(&self) -> u64 {
        self.paid_at.lost()
    }
}

/// The transition: what is paid for later than now and the burst allow may not go.
fn take(paid_at: u64, now: u64, cost: u64, tolerance: u64) -> Result<(u64, ()), Refusal> {
    let after = paid_at.max(now).saturating_add(cost);
    let earliest = after.saturating_sub(tolerance);
    if earliest > now {
        return Err(Refusal::NotUntil(Duration::from_nanos(earliest)));
    }
    Ok((after, ()))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(all(test, not(tinkers_loom)))]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn gcra(burst: u32) -> Gcra {
        Gcra::new(Rate {
            interval: ms(100),
            burst,
        })
    }

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        let limit = gcra(3);
        for _ in 0..3 {
            assert_eq!(limit.take(1, ms(0)), Ok(()));
        }
        assert_eq!(limit.take(1, ms(0)), Err(Refusal::NotUntil(ms(100))));
        assert_eq!(limit.take(2, ms(100)), Err(Refusal::NotUntil(ms(200))));
        assert_eq!(limit.take(1, ms(100)), Ok(()));
        assert_eq!(limit.take(3, ms(10_000)), Ok(()), "a pause fills the burst");
        assert_eq!(
            limit.take(1, ms(10_000)),
            Err(Refusal::NotUntil(ms(10_100)))
        );
    }

    #[test]
    fn more_than_the_burst_never_goes_and_what_did_not_go_is_given_back() {
        let limit = gcra(2);
        assert_eq!(limit.take(3, ms(0)), Err(Refusal::Never));
        assert_eq!(limit.take(2, ms(0)), Ok(()));
        limit.undo(1);
        assert_eq!(limit.take(1, ms(0)), Ok(()));
        assert!(limit.take(1, ms(0)).is_err());
    }
}
