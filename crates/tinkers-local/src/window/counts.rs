//! The counters of the in-flight limit.

use std::time::Duration;

use serde_json::{Value, json};

/// The statistics of a limit on samples in flight (see [`Window`](crate::Window)). Times are measured from the first sample
/// request, on the clock of the server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct WindowCounts {
    /// The number of samples that the limit accepted. A sample request that a client sends again is not counted again.
    pub accepted: u64,
    /// The number of sample requests that the limit refused with 429.
    pub refused: u64,
    /// The number of sample requests that were refused and had arrived before the `retry-after` hint of an earlier 429 response had
    /// expired. A client that obeys the hints has none.
    pub refused_within_hint: u64,
    /// The number of accepted samples that have ended, successfully or not.
    pub ended: u64,
    /// The number of samples that are in flight now: accepted and not yet ended.
    pub in_flight: u64,
    /// The maximum number of samples in flight so far.
    pub most_in_flight: u64,
    /// The time at which the most recent sample ended, measured from the first sample request. `None` if no sample has ended.
    pub last_end: Option<Duration>,
    /// The number of congestion events. A congestion event is a series of 429 responses that follow each other closely, as
    /// described at [`Congestion`].
    pub congestions: u64,
    /// The first congestion events, at most [`WindowCounts::KEPT`]. Each is a series of 429 responses that follow each other
    /// closely.
    pub events: Vec<Congestion>,
    /// The values that the limit on samples in flight has had so far, each with the time from which it applied. Only the first
    /// [`WindowCounts::KEPT`] values are stored.
    pub levels: Vec<WindowLevel>,
}

/// A value of a limit on samples in flight that changes over time, and the time of the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WindowLevel {
    /// The time from which this value of the limit applies, measured from the first sample request.
    pub at: Duration,
    /// The maximum number of samples in flight while this value applies.
    pub most: u32,
}

/// A congestion event: a series of 429 responses to sample requests. Each of these requests arrived before the `retry-after` hints
/// of the earlier responses had expired. If the responses have no hint, an event is a series of 429 responses that are less than
/// 100 ms apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Congestion {
    /// The time of the first 429 response of the congestion event, measured from the first sample request to the server.
    pub began: Duration,
    /// The number of samples in flight at the first 429 response of the congestion event.
    pub in_flight: u64,
    /// The number of sample requests that were refused with 429 in the congestion event.
    pub refused: u64,
    /// The time at which the last `retry-after` hint of the congestion event expires, measured from the first sample request. If
    /// the 429 responses have no hint, the time of the last of them.
    pub over: Duration,
    /// How long it took after the congestion event until a sample was accepted again. The duration begins when the last
    /// `retry-after` hint of the event expires (without hints, at the last 429 response) or, if this is later, when the number of
    /// samples in flight falls below the limit. `None` if no sample has been accepted since, or if the first sample request after
    /// the event was refused.
    pub first_grant: Option<Duration>,
    /// How long it took after the congestion event until 90 % of the limit was in flight again. The duration begins when the last
    /// `retry-after` hint of the event expires (without hints, at the last 429 response) or, if this is later, when the number of
    /// samples in flight falls below the limit. `None` if 90 % have not been reached yet, or if another sample request was refused
    /// before that.
    pub full_flow: Option<Duration>,
}

impl WindowCounts {
    /// The maximum number of congestion events that are stored, and of values of the limit that are stored. Later ones are left
    /// out.
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
