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

/// The generic cell rate algorithm: one word, the time at which all that was let through is paid for. The rate may change.
#[derive(Debug)]
pub struct Gcra {
    /// Nanoseconds from the clock's origin.
    paid_at: Word,
    /// Nanoseconds that one unit takes; 0 while there is no limit.
    interval: Word,
    burst: Word,
}

impl Gcra {
    /// A limit that has let nothing through yet; `None` is none until there is one.
    pub fn new(rate: impl Into<Option<Rate>>) -> Self {
        let (interval, burst) = parts(rate.into());
        Self {
            paid_at: Word::new(0),
            interval: Word::new(interval),
            burst: Word::new(burst),
        }
    }

    /// Applies another rate from now on. What was let through before is forgotten where the rate changes, so its burst may go once
    /// more. A take at the same moment may see the old value of one part: it decides as it could have a moment before.
    pub fn set(&self, rate: Option<Rate>) {
        let (interval, burst) = parts(rate);
        if (self.interval.load(), self.burst.load()) == (interval, burst) {
            return;
        }
        self.burst.set(|_| (burst, ()));
        self.interval.set(|_| (interval, ()));
        self.paid_at.set(|_| (0, ()));
    }

    /// Returns whether there is a limit now.
    #[inline]
    pub fn is_limited(&self) -> bool {
        self.interval.load() > 0
    }

    /// Lets `units` through at `now`, or says when they may go.
    pub fn take(&self, units: u32, now: Duration) -> Result<(), Refusal> {
        let (units, now) = (u64::from(units), nanos(now));
        let (interval, burst) = (self.interval.load(), self.burst.load());
        if interval == 0 {
            return Ok(());
        }
        if units > burst {
            return Err(Refusal::Never);
        }
        let cost = interval.saturating_mul(units);
        let tolerance = interval.saturating_mul(burst);
        self.paid_at
            .change(|paid_at| take(paid_at, now, cost, tolerance))
    }

    /// Takes back what was let through and did not go.
    pub fn undo(&self, units: u32) {
        let cost = self.interval.load().saturating_mul(units.into());
        self.paid_at
            .set(|paid_at| (paid_at.saturating_sub(cost), ()));
    }

    /// How many exchanges lost to another thread.
    #[cfg(feature = "contention")]
    pub fn contention(&self) -> u64 {
        self.paid_at.lost()
    }
}

fn parts(rate: Option<Rate>) -> (u64, u64) {
    rate.map_or((0, 1), |rate| {
        (nanos(rate.interval).max(1), u64::from(rate.burst.max(1)))
    })
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
        Gcra::new(rate(100, burst))
    }

    fn rate(interval: u64, burst: u32) -> Option<Rate> {
        Some(Rate {
            interval: ms(interval),
            burst,
        })
    }

    #[test]
    fn a_changed_rate_holds_from_then_on() {
        let limit = Gcra::new(None);
        assert!(!limit.is_limited());
        assert_eq!(limit.take(1000, ms(0)), Ok(()));
        limit.set(rate(60_000, 1));
        assert!(limit.is_limited());
        assert_eq!(limit.take(1, ms(0)), Ok(()));
        assert!(limit.take(1, ms(0)).is_err());
        limit.set(rate(60_000, 1));
        assert!(
            limit.take(1, ms(0)).is_err(),
            "the same rate changes nothing"
        );
        // A debt under a slow rate does not outlive it.
        limit.set(rate(10, 1));
        assert_eq!(limit.take(1, ms(0)), Ok(()));
        assert_eq!(limit.take(1, ms(0)), Err(Refusal::NotUntil(ms(10))));
        limit.set(None);
        assert_eq!(limit.take(1000, ms(0)), Ok(()));
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
