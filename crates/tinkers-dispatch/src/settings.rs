//! The configured limits of each route class.

use std::time::Duration;

use tinkers_core::RouteClass;
use tinkers_limits::{Bounds, ByteBudget, ConcurrencyWindow, InitialLimit, Rate};

/// The configured limits of one route class (kind of request).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassSettings {
    /// The maximum number of requests that were sent and have no response yet. 0 counts as 1.
    pub slots: u32,
    /// The maximum number of bytes that are being sent. The last admitted request may exceed the maximum. `None` is unlimited.
    pub bytes: Option<u64>,
    /// The maximum number of requests in flight, from admission to the result. The adaptive limit never exceeds it. `None` is
    /// unlimited. Only sampling requests are counted.
    pub max_in_flight: Option<u32>,
    /// The maximum rate of requests, in addition to the server's own limit. `None` is unlimited.
    pub rate: Option<Rate>,
}

impl ClassSettings {
    /// Returns settings with a limit of `slots` on the number of requests that are being sent, and no other limit.
    pub const fn slots(slots: u32) -> Self {
        Self {
            slots,
            bytes: None,
            max_in_flight: None,
            rate: None,
        }
    }

    /// Returns settings with the stricter value of each limit of `self` and `other`. The stricter of two rates is the slower one, with its
    /// burst.
    #[must_use]
    pub fn stricter(self, other: Self) -> Self {
        Self {
            slots: self.slots.min(other.slots),
            bytes: least(self.bytes, other.bytes),
            max_in_flight: least(self.max_in_flight, other.max_in_flight),
            rate: match (self.rate, other.rate) {
                (Some(one), Some(two)) if one.interval >= two.interval => Some(one),
                (one, None) => one,
                (_, two) => two,
            },
        }
    }

    pub(crate) fn bounds(self, class: RouteClass) -> Bounds {
        Bounds {
            slots: self.slots.max(1),
            bytes: self.bytes.unwrap_or(ByteBudget::UNLIMITED),
            max_in_flight: self.ceiling(),
            rate: self.rate,
            start: match class {
                RouteClass::Sample => InitialLimit::Slow,
                _ => InitialLimit::Open,
            },
        }
    }

    pub(crate) fn ceiling(self) -> u32 {
        self.max_in_flight.unwrap_or(ConcurrencyWindow::MAX)
    }
}

fn least<T: Ord>(one: Option<T>, two: Option<T>) -> Option<T> {
    match (one, two) {
        (Some(one), Some(two)) => Some(one.min(two)),
        (one, two) => one.or(two),
    }
}

/// The rate limits of a client, for each route class. The route class of control requests (heartbeat, close) has no limits.
///
/// ```
/// # use tinkers_dispatch as tinkers;
/// use tinkers::{ClassSettings, LimiterSettings};
///
/// let mut limits = LimiterSettings::default();
/// // At most 100 samples are sent at once, and at most 500 are in flight.
/// limits.sample = ClassSettings { slots: 100, max_in_flight: Some(500), ..limits.sample };
/// assert_eq!(limits.train.slots, 32);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimiterSettings {
    /// The limits of sampling submissions.
    pub sample: ClassSettings,
    /// The limits of training submissions.
    pub train: ClassSettings,
    /// The limits of polls for results.
    pub poll: ClassSettings,
    /// The limits of listings and administration.
    pub rest: ClassSettings,
    /// The maximum time for which one refusal (429 response) stops new requests of a class, even if the server asks for a longer delay. If
    /// clients request different values, the longest one applies.
    pub max_hint: Duration,
}

impl LimiterSettings {
    /// Returns settings with the stricter value of each limit of `self` and `other`, and the longer `max_hint`.
    #[must_use]
    pub fn stricter(self, other: Self) -> Self {
        Self {
            sample: self.sample.stricter(other.sample),
            train: self.train.stricter(other.train),
            poll: self.poll.stricter(other.poll),
            rest: self.rest.stricter(other.rest),
            max_hint: self.max_hint.max(other.max_hint),
        }
    }

    /// Returns the configured limits of a route class.
    pub(crate) fn of(&self, class: RouteClass) -> ClassSettings {
        match class {
            RouteClass::Sample => self.sample,
            RouteClass::Train => self.train,
            RouteClass::Poll => self.poll,
            _ => self.rest,
        }
    }
}

impl Default for LimiterSettings {
    /// Returns the limits of the official SDK where it has any: 400 samples and 10 MiB of prompts being sent, 2000 samples in flight, and
    /// 50 MB of forward-backward passes being sent. For polls the limit is 4000 at once, which needs fewer ports than one IP address has.
    fn default() -> Self {
        Self {
            sample: ClassSettings {
                slots: 400,
                bytes: Some(10_485_760),
                max_in_flight: Some(2000),
                rate: None,
            },
            train: ClassSettings {
                slots: 32,
                bytes: Some(50_000_000),
                max_in_flight: None,
                rate: None,
            },
            poll: ClassSettings::slots(4000),
            rest: ClassSettings::slots(16),
            max_hint: Duration::from_secs(15 * 60),
        }
    }
}

#[cfg(all(test, not(tinkers_loom)))]
mod tests {
    use super::*;

    fn settings(bytes: Option<u64>, seconds: Option<u64>) -> ClassSettings {
        ClassSettings {
            bytes,
            rate: seconds.map(|seconds| Rate {
                interval: Duration::from_secs(seconds),
                burst: seconds as u32,
            }),
            ..ClassSettings::slots(4)
        }
    }

    #[test]
    fn stricter_of_two_settings_does_not_depend_on_their_order() {
        let (none, low, high) = (
            settings(None, None),
            settings(Some(1), Some(9)),
            settings(Some(2), Some(3)),
        );
        for (one, two, expected) in [(none, low, low), (low, high, low), (none, none, none)] {
            assert_eq!(one.stricter(two), expected);
            assert_eq!(two.stricter(one), expected);
        }
        // If two rates have the same interval, the first one is kept.
        let burst = |burst| ClassSettings {
            rate: Some(Rate {
                interval: Duration::from_secs(1),
                burst,
            }),
            ..ClassSettings::slots(1)
        };
        assert_eq!(burst(2).stricter(burst(5)), burst(2));
    }

    #[test]
    fn each_route_class_has_its_own_settings() {
        let settings = LimiterSettings::default();
        for (class, slots) in [
            (RouteClass::Sample, 400),
            (RouteClass::Train, 32),
            (RouteClass::Poll, 4000),
            (RouteClass::Rest, 16),
        ] {
            assert_eq!(settings.of(class).slots, slots, "{class:?}");
        }
    }

    #[test]
    fn only_sampling_requests_have_a_slow_start() {
        for class in RouteClass::ALL {
            let start = ClassSettings::slots(1).bounds(class).start;
            assert_eq!(
                start == InitialLimit::Slow,
                class == RouteClass::Sample,
                "{class:?}"
            );
        }
    }
}
