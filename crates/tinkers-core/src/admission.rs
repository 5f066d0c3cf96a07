//! The seam to the rate limits: who may send, what that takes, and how it is given back.

use std::fmt;
use std::time::Duration;

use crate::error::Error;
use crate::spawn::BoxFuture;
use crate::time::Moment;

/// The lanes of the API. Each has its own gate, queue and connections; a 429 closes its own lane alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RouteClass {
    /// Sampling submissions.
    Sample,
    /// Training submissions, model creation, saves and loads.
    Train,
    /// Polls for results.
    Poll,
    /// Listings and management.
    Rest,
    /// Heartbeat, configuration, cancel, finish. Never gated.
    Control,
}

impl RouteClass {
    /// Every class, in the order of [`RouteClass::index`].
    pub const ALL: [Self; 5] = [
        Self::Sample,
        Self::Train,
        Self::Poll,
        Self::Rest,
        Self::Control,
    ];

    /// A small number for tables: the position in [`RouteClass::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name used in spans and errors.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sample => "sample",
            Self::Train => "train",
            Self::Poll => "poll",
            Self::Rest => "rest",
            Self::Control => "control",
        }
    }
}

/// One client handle among those that share a limiter; each has its own queue there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// What a request takes from the budgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Estimated bytes of the body.
    pub bytes: u64,
}

/// A request to be admitted.
#[derive(Debug)]
pub struct Ask {
    /// The lane.
    pub class: RouteClass,
    /// Who asks.
    pub client: ClientId,
    /// What it takes.
    pub cost: Cost,
    /// The wait ends here with an error; `None` waits for as long as it takes.
    pub deadline: Option<Moment>,
    /// The flight of an earlier attempt whose outcome is unknown: it was kept, and no second one is taken.
    pub flight: Option<Flight>,
    /// Where in its client's queue it goes.
    pub reentry: Reentry,
}

/// Where in its client's queue a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reentry {
    /// At the end.
    New,
    /// At the head: it was admitted before and the server refused it.
    AfterRefusal,
}

/// What an admitted request holds.
#[derive(Debug)]
pub struct Admitted {
    /// For this attempt.
    pub permit: SubmitPermit,
    /// To the result.
    pub flight: Flight,
}

/// How an attempt ended, as far as the limits are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// The server took it; the flight goes on.
    Accepted,
    /// The server refused it for its rate. The caller drops the flight and asks again.
    Refused {
        /// When the server said to come back, counted from now.
        hint: Option<Duration>,
    },
    /// Nobody knows, or an answer that says nothing about the rate. The flight is kept through a retry.
    Unknown,
}

/// Decides when a request may leave. The wait is cancel-safe: dropping it gives back all that was taken.
pub trait Admission: Send + Sync + fmt::Debug + 'static {
    /// Waits for its turn. Fails with `RateLimited` and `retry_at` when the server's hint lies beyond the deadline, with
    /// `Timeout` when the deadline passes, with `Closed` after the end of the client.
    fn admit(&self, ask: Ask) -> BoxFuture<'_, Result<Admitted, Error>>;
}

/// A slot and bytes of the budgets, for one attempt. Dropped unsettled, it counts as [`Settlement::Unknown`].
pub struct SubmitPermit {
    settle: Option<Box<dyn FnOnce(Settlement) + Send>>,
}

impl SubmitPermit {
    /// A permit that reports its end to `settle`, exactly once.
    pub fn new(settle: impl FnOnce(Settlement) + Send + 'static) -> Self {
        Self {
            settle: Some(Box::new(settle)),
        }
    }

    /// Ends the attempt.
    pub fn settle(mut self, outcome: Settlement) {
        if let Some(settle) = self.settle.take() {
            settle(outcome);
        }
    }
}

impl Drop for SubmitPermit {
    fn drop(&mut self) {
        if let Some(settle) = self.settle.take() {
            settle(Settlement::Unknown);
        }
    }
}

impl fmt::Debug for SubmitPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubmitPermit").finish_non_exhaustive()
    }
}

/// One unit of the in-flight window, from admission to the result, a terminal error or the drop.
pub struct Flight {
    land: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Flight {
    /// A flight that gives its unit back through `land`, exactly once.
    pub fn new(land: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self {
            land: Some(Box::new(land)),
        }
    }

    /// A flight that took nothing, for lanes without a window.
    pub const fn free() -> Self {
        Self { land: None }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(land) = self.land.take() {
            land();
        }
    }
}

impl fmt::Debug for Flight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flight")
            .field("counted", &self.land.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[test]
    fn a_permit_settles_exactly_once_also_when_dropped() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let permit = || {
            let seen = Arc::clone(&seen);
            SubmitPermit::new(move |s| seen.lock().unwrap().push(s))
        };
        permit().settle(Settlement::Accepted);
        drop(permit());
        assert_eq!(
            *seen.lock().unwrap(),
            [Settlement::Accepted, Settlement::Unknown]
        );
    }

    #[test]
    fn the_index_of_a_class_is_its_place_in_the_list() {
        for (i, class) in RouteClass::ALL.into_iter().enumerate() {
            assert_eq!(class.index(), i);
        }
    }
}
