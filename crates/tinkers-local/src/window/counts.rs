//! The counters of the in-flight limit.

use std::time::Duration;

use serde_json::{Value, json};

/// The statistics of a [`Window`](crate::Window). Times are measured from the first submission, on the clock of the server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct WindowCounts {
    /// The number of accepted samples. A repeated submission is not counted again.
    pub accepted: u64,
    /// The number of refused samples.
    pub refused: u64,
    /// The number of refused samples that arrived before the `retry-after` hint of an earlier refusal had expired.
    pub refused_within_hint: u64,
    /// The number of ended samples, successful or not.
    pub ended: u64,
    /// The current number of samples in flight.
    pub in_flight: u64,
    /// The maximum number of samples in flight so far.
    pub most_in_flight: u64,
    /// The time at which the last sample ended.
    pub last_end: Option<Duration>,
    /// The number of congestion events. A congestion event is a series of refusals, as described at [`Congestion`].
    pub congestions: u64,
    /// The first [`WindowCounts::KEPT`] congestion events.
    pub events: Vec<Congestion>,
    /// The first [`WindowCounts::KEPT`] values that the in-flight limit has had so far, each with the time from which it applied.
    pub levels: Vec<WindowLevel>,
}

/// A value of an in-flight limit that changes over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WindowLevel {
    /// The time from which this value of the limit applies.
    pub at: Duration,
    /// The maximum number of samples in flight while this value applies.
    pub most: u32,
}

/// A congestion event: a series of refusals. Each of them arrived before the `retry-after` hints of the earlier refusals had
/// expired. If refusals carry no hint, an event is a series of refusals that are at most 100 ms apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Congestion {
    /// The time of the first refusal of the event.
    pub began: Duration,
    /// The number of samples in flight at the first refusal.
    pub in_flight: u64,
    /// The number of refusals in the event.
    pub refused: u64,
    /// The time at which the last `retry-after` hint expired. If the refusals carry no hint, the time of the last refusal.
    pub over: Duration,
    /// The duration from the end of the congestion event to the first sample that was accepted afterwards. The duration begins when
    /// the last `retry-after` hint of the event expires (without hints, at the last refusal) or, if this is later, when the number
    /// of samples in flight falls below the limit. `None` if no sample has been accepted since, or if the first submission after
    /// the event was refused.
    pub first_grant: Option<Duration>,
    /// The duration from the end of the congestion event to the time at which 90 % of the limit was in flight again. The duration
    /// begins when the last `retry-after` hint of the event expires (without hints, at the last refusal) or, if this is later, when
    /// the number of samples in flight falls below the limit. `None` if 90 % have not been reached yet, or if another submission
    /// was refused after the event and before that time.
    pub full_flow: Option<Duration>,
}

impl WindowCounts {
    /// The maximum number of stored congestion events, and of stored values of the limit.
    pub const KEPT: usize = 4096;

    /// Returns the response body of `GET /scripted/counts`, with times in milliseconds.
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
