//! The counters of a window.

use std::time::Duration;

use serde_json::{Value, json};

/// The counters of a window. Times are measured from the first submission on the clock of the server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct WindowCounts {
    /// The number of accepted samples; repeated submissions are not counted again.
    pub accepted: u64,
    /// The number of refused samples.
    pub refused: u64,
    /// The number of refused samples that arrived before an earlier hint had expired.
    pub refused_within_hint: u64,
    /// The number of ended samples, successful or not.
    pub ended: u64,
    /// The current number of samples in flight.
    pub in_flight: u64,
    /// The maximum number of samples in flight so far.
    pub most_in_flight: u64,
    /// The end of the last sample.
    pub last_end: Option<Duration>,
    /// The number of congestion events.
    pub congestions: u64,
    /// The first [`WindowCounts::KEPT`] congestion events.
    pub events: Vec<Congestion>,
    /// The first [`WindowCounts::KEPT`] levels of the window so far.
    pub levels: Vec<WindowLevel>,
}

/// A level of a window: its limit from a given time on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WindowLevel {
    /// The start of the level.
    pub at: Duration,
    /// The maximum number of samples in flight.
    pub most: u32,
}

/// A congestion event: a run of refusals, each of which arrived before the hints of the earlier ones had expired. Without hints,
/// a run continues while its refusals are at most 100 ms apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Congestion {
    /// The time of the first refusal.
    pub began: Duration,
    /// The number of samples in flight at that time.
    pub in_flight: u64,
    /// The number of refusals.
    pub refused: u64,
    /// The expiry of the last hint; without hints, the time of the last refusal.
    pub over: Duration,
    /// The time from the expiry of the hint, or from when there was room if that is later, to the next accepted sample. `None` if
    /// there was a refusal first, or no submission.
    pub first_grant: Option<Duration>,
    /// The time from the same start until 90 % of the window were in flight. `None` if that did not happen before the next refusal.
    pub full_flow: Option<Duration>,
}

impl WindowCounts {
    /// The maximum number of kept events, and of kept levels.
    pub const KEPT: usize = 4096;

    /// Returns the body of `GET /scripted/counts`, with times in milliseconds.
    pub(crate) fn json(&self) -> Value {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let event = |event: &Congestion| {
            json!({
                "began_ms": ms(event.began),
                "in_flight": event.in_flight,
                "refused": event.refused,
                "over_ms": ms(event.over),
                "first_grant_ms": event.first_grant.map(ms),
                "full_flow_ms": event.full_flow.map(ms),
            })
        };
        json!({
            "accepted": self.accepted,
            "refused": self.refused,
            "refused_within_hint": self.refused_within_hint,
            "ended": self.ended,
            "in_flight": self.in_flight,
            "most_in_flight": self.most_in_flight,
            "last_end_ms": self.last_end.map(ms),
            "congestions": self.congestions,
            "events": self.events.iter().map(event).collect::<Vec<_>>(),
            "levels": self.levels.iter()
                .map(|level| json!({ "at_ms": ms(level.at), "window": level.most }))
                .collect::<Vec<_>>(),
        })
    }
}
