//! How much each lane lets through.

use std::time::Duration;

use tinkers_core::RouteClass;
use tinkers_limits::{Bounds, ByteBudget, ConcurrencyWindow, Rate, Start};

/// Limits of one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassSettings {
    /// Requests being sent at once. At least 1; a zero is taken for it.
    pub slots: u32,
    /// Bytes being sent at once; the last one admitted may overshoot. `None` is without limit.
    pub bytes: Option<u64>,
    /// Requests from admission to result at once: the ceiling of the window that learns what the server takes. `None` is
    /// without limit. Of the sample lane alone.
    pub flights: Option<u32>,
    /// Requests for a time, beside all that the server says. `None` is without limit.
    pub rate: Option<Rate>,
}

impl ClassSettings {
    /// A lane that limits the requests being sent, and nothing else.
    pub const fn slots(slots: u32) -> Self {
        Self {
            slots,
            bytes: None,
            flights: None,
            rate: None,
        }
    }

    /// The stricter value of each limit. Of two rates it is the slower one, burst included.
    #[must_use]
    pub fn stricter(self, other: Self) -> Self {
        Self {
            slots: self.slots.min(other.slots),
            bytes: least(self.bytes, other.bytes),
            flights: least(self.flights, other.flights),
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
            flights: self.ceiling(),
            rate: self.rate,
            start: match class {
                RouteClass::Sample => Start::Slow,
                _ => Start::Open,
            },
        }
    }

    pub(crate) fn ceiling(self) -> u32 {
        self.flights.unwrap_or(ConcurrencyWindow::MAX)
    }
}

fn least<T: Ord>(one: Option<T>, two: Option<T>) -> Option<T> {
    match (one, two) {
        (Some(one), Some(two)) => Some(one.min(two)),
        (one, two) => one.or(two),
    }
}

/// Limits of every lane that has any; the control lane has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimiterSettings {
    /// Sampling submissions.
    pub sample: ClassSettings,
    /// Training submissions.
    pub train: ClassSettings,
    /// Polls.
    pub poll: ClassSettings,
    /// Listings and management.
    pub rest: ClassSettings,
    /// A lane is never closed for longer than this by one refusal, whatever the server says. Of two values the longer one is the
    /// stricter.
    pub max_hint: Duration,
}

impl LimiterSettings {
    /// The stricter value of each limit.
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
}

impl Default for LimiterSettings {
    /// What the official SDK does where it has a limit: 400 samples and 10 MiB of prompts being submitted, at most 2000
    /// samples in flight, 50 MB of passes being submitted. 4000 polls at once, so that they fit on the ports of one address.
    fn default() -> Self {
        Self {
            sample: ClassSettings {
                slots: 400,
                bytes: Some(10_485_760),
                flights: Some(2000),
                rate: None,
            },
            train: ClassSettings {
                slots: 32,
                bytes: Some(50_000_000),
                flights: None,
                rate: None,
            },
            poll: ClassSettings::slots(4000),
            rest: ClassSettings::slots(16),
            max_hint: Duration::from_secs(15 * 60),
        }
    }
}
