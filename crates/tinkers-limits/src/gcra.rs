//! An optional limit on the request rate, with bursts.

use std::time::Duration;

use crate::word::Word;

/// A request rate and its burst size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The time between two requests at this rate. It must be positive.
    pub interval: Duration,
    /// The number of requests that may be sent at once after a time without requests. It is at least 1.
    pub burst: u32,
}

/// The reason why the rate limit does not admit a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateRefusal {
    /// The rate limit will admit the request at this time, unless it admits other requests before then.
    NotUntil(Duration),
    /// The request asks for more units than the burst size, so it is never admitted.
    Never,
}

/// A rate limiter that uses the generic cell rate algorithm (GCRA). One atomic word holds the theoretical arrival time: the time until
/// which the requests admitted so far use up the rate. The rate can be changed.
#[derive(Debug)]
pub struct Gcra {
    /// The theoretical arrival time of the next request, in nanoseconds from the clock's origin.
    arrival_time: Word,
    /// The time per unit in nanoseconds. 0 means that there is no limit.
    interval: Word,
    burst: Word,
}

impl Gcra {
    /// Creates a rate limiter. `None` means no limit.
    pub fn new(rate: impl Into<Option<Rate>>) -> Self {
        let (interval, burst) = parts(rate.into());
        Self {
            arrival_time: Word::new(0),
            interval: Word::new(interval),
            burst: Word::new(burst),
        }
    }

    /// Changes the rate. If the new rate differs from the old one, all previous requests are forgotten, and the whole burst is available at
    /// once. A concurrent [`Gcra::take`] may combine parameters of the old and the new rate. That is harmless, since each of them was valid
    /// an instant before.
    pub fn set(&self, rate: Option<Rate>) {
        let (interval, burst) = parts(rate);
        if (self.interval.load(), self.burst.load()) == (interval, burst) {
            return;
        }
        self.burst.set(|_| (burst, ()));
        self.interval.set(|_| (interval, ()));
        self.arrival_time.set(|_| (0, ()));
    }

    /// Returns whether the rate is limited. If not, every request is admitted.
    #[inline]
    pub fn is_limited(&self) -> bool {
        self.interval.load() > 0
    }

    /// Admits a request of `units` units at `now`.
    ///
    /// # Errors
    /// The time at which the rate limit can admit the units, or `Never`.
    pub fn take(&self, units: u32, now: Duration) -> Result<(), RateRefusal> {
        let (units, now) = (u64::from(units), nanos(now));
        let (interval, burst) = (self.interval.load(), self.burst.load());
        if interval == 0 {
            return Ok(());
        }
        if units > burst {
            return Err(RateRefusal::Never);
        }
        let cost = interval.saturating_mul(units);
        let tolerance = interval.saturating_mul(burst);
        self.arrival_time
            .change(|arrival_time| take(arrival_time, now, cost, tolerance))
    }

    /// Gives back `units` that were admitted but not sent, so that other requests can use them.
    pub fn undo(&self, units: u32) {
        let cost = self.interval.load().saturating_mul(units.into());
        self.arrival_time
            .set(|arrival_time| (arrival_time.saturating_sub(cost), ()));
    }

    /// Returns how many compare-and-swap attempts have failed so far because another thread changed the value first.
    #[cfg(feature = "contention")]
    pub fn contention(&self) -> u64 {
        self.arrival_time.lost()
    }
}

fn parts(rate: Option<Rate>) -> (u64, u64) {
    rate.map_or((0, 1), |rate| {
        (nanos(rate.interval).max(1), u64::from(rate.burst.max(1)))
    })
}

/// Returns the theoretical arrival time after admitting a request that uses up the rate for `cost` nanoseconds.
///
/// # Errors
/// `NotUntil` if the new arrival time would be later than `now` plus the burst tolerance `tolerance`.
fn take(arrival_time: u64, now: u64, cost: u64, tolerance: u64) -> Result<(u64, ()), RateRefusal> {
    let after = arrival_time.max(now).saturating_add(cost);
    let earliest = after.saturating_sub(tolerance);
    if earliest > now {
        return Err(RateRefusal::NotUntil(Duration::from_nanos(earliest)));
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
    fn changed_rate_limit_applies_immediately() {
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
        // Requests at the slow rate no longer count after the rate has changed.
        limit.set(rate(10, 1));
        assert_eq!(limit.take(1, ms(0)), Ok(()));
        assert_eq!(limit.take(1, ms(0)), Err(RateRefusal::NotUntil(ms(10))));
        limit.set(None);
        assert_eq!(limit.take(1000, ms(0)), Ok(()));
    }

    #[test]
    fn rate_limit_admits_a_burst_at_once_and_the_rest_at_the_rate() {
        let limit = gcra(3);
        for _ in 0..3 {
            assert_eq!(limit.take(1, ms(0)), Ok(()));
        }
        assert_eq!(limit.take(1, ms(0)), Err(RateRefusal::NotUntil(ms(100))));
        assert_eq!(limit.take(2, ms(100)), Err(RateRefusal::NotUntil(ms(200))));
        assert_eq!(limit.take(1, ms(100)), Ok(()));
        assert_eq!(
            limit.take(3, ms(10_000)),
            Ok(()),
            "a pause restores the burst"
        );
        assert_eq!(
            limit.take(1, ms(10_000)),
            Err(RateRefusal::NotUntil(ms(10_100)))
        );
    }

    #[test]
    fn rate_limit_refuses_more_than_the_burst_and_undo_returns_units() {
        let limit = gcra(2);
        assert_eq!(limit.take(3, ms(0)), Err(RateRefusal::Never));
        assert_eq!(limit.take(2, ms(0)), Ok(()));
        limit.undo(1);
        assert_eq!(limit.take(1, ms(0)), Ok(()));
        assert!(limit.take(1, ms(0)).is_err());
    }
}
