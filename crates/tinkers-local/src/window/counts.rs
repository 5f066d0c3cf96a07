//! What a window saw, exactly.

use std::time::Duration;

use serde_json::{Value, json};

/// What was accepted, refused and in flight. Times are counted from the first submission on the server's clock.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct WindowCounts {
    /// Samples accepted; a repeated submission is not counted again.
    pub accepted: u64,
    /// Samples refused.
    pub refused: u64,
    /// Of those refused, the ones that came before a hint given earlier had run out.
    pub refused_within_hint: u64,
    /// Samples ended, with a result or without.
    pub ended: u64,
    /// Samples in flight now.
    pub in_flight: u64,
    /// The most that were in flight at once.
    pub most_in_flight: u64,
    /// When the last sample ended.
    pub last_end: Option<Duration>,
    /// How many congestion events there were.
    pub congestions: u64,
    /// The first [`WindowCounts::KEPT`] of them.
    pub events: Vec<Congestion>,
    /// The levels of the window so far; the first [`WindowCounts::KEPT`] of them.
    pub levels: Vec<Level>,
}

/// One level of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Level {
    /// Since when.
    pub at: Duration,
    /// How many may be in flight.
    pub most: u32,
}

/// Refusals that belong together: each but the first came before what those before it had hinted at was over. One without a
/// hint belongs with those up to 100 ms before it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Congestion {
    /// When the first refusal was answered.
    pub began: Duration,
    /// How many were in flight then.
    pub in_flight: u64,
    /// How many refusals there were.
    pub refused: u64,
    /// When the last hint ran out; without a hint, when the last refusal was answered.
    pub over: Duration,
    /// The first acceptance after that: how long after the hint had run out and there was room. `None` when a refusal came
    /// first, or nothing.
    pub first_grant: Option<Duration>,
    /// How long it then took until nine tenths of the window were in flight, counted from the same moment. `None` when that
    /// did not come about before the next refusal.
    pub full_flow: Option<Duration>,
}

impl WindowCounts {
    /// So many events and levels are kept.
    pub const KEPT: usize = 4096;

    /// As `GET /scripted/counts` gives it; times in milliseconds.
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
