//! Applies an in-flight limit: admits samples and keeps the counters.

use std::time::Duration;

use tinkers_core::Timestamp;

use super::counts::{Congestion, WindowCounts, WindowLevel};
use super::levels::LevelSequence;
use super::{HintForm, Window};
use crate::faults::Hint;
use crate::protocol::Stamp;

/// How long after a 429 response the next one still belongs to the same congestion event (series of 429 responses), if the
/// responses have no `retry-after` hint.
const MAX_EVENT_GAP: Duration = Duration::from_millis(100);

/// A limit on samples in flight: accepts or refuses sample requests, changes its value over time, and counts.
#[derive(Debug)]
pub(crate) struct WindowLimiter {
    window: Window,
    levels: LevelSequence,
    /// The time of the first sample request, from which the changes of the limit are timed. `None` before it.
    start: Option<Timestamp>,
    /// The time from which the current value of the limit applies.
    level_start: Timestamp,
    /// The last time at which the number of samples in flight fell below the limit, so that the limit could accept a sample again.
    room_since: Timestamp,
    /// The last congestion event (series of 429 responses), while the recovery from it is still being measured. `None` when the
    /// number of samples in flight has reached 90 % of the limit again, or if there was no such event.
    open: Option<OpenEvent>,
    counts: WindowCounts,
}

/// A congestion event (series of 429 responses) whose statistics may still change.
#[derive(Debug)]
struct OpenEvent {
    event: Congestion,
    /// The time at which the last `retry-after` hint of the congestion event expires. Without hints, the time of its last 429
    /// response.
    hint_expiry: Timestamp,
    /// The end of the congestion event. A sample request that is refused before this time belongs to the event, and a later one
    /// begins a new event.
    until: Timestamp,
    /// The time from which [`Congestion::first_grant`] and [`Congestion::full_flow`] of this event are measured. `None` until a
    /// sample is accepted after the event.
    recovery_start: Option<Timestamp>,
    /// The index of the congestion event in the list of all events. Only the first [`WindowCounts::KEPT`] events are stored there.
    index: usize,
}

impl WindowLimiter {
    pub(crate) fn new(window: Window) -> Self {
        let levels = window.levels.start();
        Self {
            window,
            levels,
            start: None,
            level_start: Timestamp::ORIGIN,
            room_since: Timestamp::ORIGIN,
            open: None,
            counts: WindowCounts::default(),
        }
    }

    /// Accepts or refuses a sample request, and counts it.
    ///
    /// # Errors
    ///
    /// The `retry-after` hint for the 429 response, if the limit is reached.
    pub(crate) fn submit(&mut self, at: Stamp) -> Result<(), Hint> {
        self.advance(at.now);
        if self.counts.in_flight < u64::from(self.levels.level()) {
            self.grant(at.now);
            return Ok(());
        }
        Err(self.refuse(at))
    }

    /// Records that an accepted sample has ended and is no longer in flight.
    pub(crate) fn ended(&mut self, now: Timestamp) {
        self.advance(now);
        let was_full = self.is_full();
        self.counts.in_flight = self.counts.in_flight.saturating_sub(1);
        self.counts.ended += 1;
        self.counts.last_end = Some(self.since_start(now));
        if was_full && !self.is_full() {
            self.room_since = now;
        }
    }

    /// Returns the statistics of the limit up to `now`.
    pub(crate) fn counts(&mut self, now: Timestamp) -> WindowCounts {
        if self.start.is_some() {
            self.advance(now);
        }
        self.counts.clone()
    }

    fn grant(&mut self, now: Timestamp) {
        self.counts.accepted += 1;
        self.counts.in_flight += 1;
        self.counts.most_in_flight = self.counts.most_in_flight.max(self.counts.in_flight);
        let is_nearly_full = self.counts.in_flight * 10 >= u64::from(self.levels.level()) * 9;
        let room_since = self.room_since;
        let Some(open) = self.open.as_mut().filter(|open| open.until <= now) else {
            return;
        };
        let start = *open
            .recovery_start
            .get_or_insert(open.hint_expiry.max(room_since));
        open.event.first_grant.get_or_insert(now.since(start));
        open.event.full_flow = is_nearly_full.then(|| now.since(start));
        self.record();
        if is_nearly_full {
            self.open = None;
        }
    }

    fn refuse(&mut self, at: Stamp) -> Hint {
        let (hint, pause) = self.window.hint_at(at.wall);
        let hint_expiry = at.now.after(pause);
        let is_hinted = self.window.form != HintForm::None;
        let until = if is_hinted {
            hint_expiry
        } else {
            at.now.after(MAX_EVENT_GAP)
        };
        self.counts.refused += 1;
        if self.open.as_ref().is_none_or(|open| open.until <= at.now) {
            self.open_event(at.now);
        } else if is_hinted {
            self.counts.refused_within_hint += 1;
        }
        let over = self.since_start(hint_expiry);
        if let Some(open) = &mut self.open {
            open.event.refused += 1;
            open.event.over = open.event.over.max(over);
            open.hint_expiry = open.hint_expiry.max(hint_expiry);
            open.until = open.until.max(until);
        }
        self.record();
        hint
    }

    fn open_event(&mut self, now: Timestamp) {
        self.counts.congestions += 1;
        let event = Congestion {
            began: self.since_start(now),
            in_flight: self.counts.in_flight,
            ..Congestion::default()
        };
        let index = self.counts.events.len();
        if index < WindowCounts::KEPT {
            self.counts.events.push(event.clone());
        }
        self.open = Some(OpenEvent {
            event,
            hint_expiry: now,
            until: now,
            recovery_start: None,
            index,
        });
    }

    /// Copies the current congestion event (series of 429 responses) into the statistics, unless their list of events is full.
    fn record(&mut self) {
        if let Some(open) = &self.open
            && let Some(kept) = self.counts.events.get_mut(open.index)
        {
            kept.clone_from(&open.event);
        }
    }

    /// Sets the limit to its value for the time `now`, if its value changes over time.
    fn advance(&mut self, now: Timestamp) {
        if self.start.is_none() {
            self.start = Some(now);
            self.level_start = now;
            self.room_since = now;
            self.record_level();
        }
        let Some(every) = self.levels.every() else {
            return;
        };
        while self.level_start.after(every) <= now {
            let was_full = self.is_full();
            self.level_start = self.level_start.after(every);
            self.levels.step();
            self.record_level();
            if was_full && !self.is_full() {
                self.room_since = self.level_start;
            }
        }
    }

    fn record_level(&mut self) {
        if self.counts.levels.len() < WindowCounts::KEPT {
            self.counts.levels.push(WindowLevel {
                at: self.since_start(self.level_start),
                most: self.levels.level(),
            });
        }
    }

    fn is_full(&self) -> bool {
        self.counts.in_flight >= u64::from(self.levels.level())
    }

    fn since_start(&self, now: Timestamp) -> Duration {
        now.since(self.start.unwrap_or(now))
    }
}
