//! A window in use: what is in flight under it, and what it saw.

use std::time::Duration;

use tinkers_core::Timestamp;

use super::counts::{Congestion, Level, WindowCounts};
use super::levels::Course;
use super::{HintForm, Window};
use crate::faults::Hint;
use crate::protocol::Stamp;

/// Refusals without a hint belong together up to this far apart.
const TOGETHER: Duration = Duration::from_millis(100);

/// A window and its counts.
#[derive(Debug)]
pub(crate) struct State {
    window: Window,
    course: Course,
    /// The first submission; the levels begin there.
    began: Option<Timestamp>,
    /// When the level in force began.
    since: Timestamp,
    /// Since when there has been room.
    room: Timestamp,
    /// The congestion event that may still go on, or whose end is being measured.
    last: Option<Open>,
    counts: WindowCounts,
}

/// A congestion event whose end has not come.
#[derive(Debug)]
struct Open {
    event: Congestion,
    /// When the last hint runs out.
    over: Timestamp,
    /// Refusals before this belong to it.
    until: Timestamp,
    /// Where its times after the end are counted from, once something was granted.
    from: Option<Timestamp>,
    /// Its place among the events, kept or not.
    place: usize,
}

impl State {
    pub(crate) fn new(window: Window) -> Self {
        let course = window.levels.start();
        Self {
            window,
            course,
            began: None,
            since: Timestamp::ORIGIN,
            room: Timestamp::ORIGIN,
            last: None,
            counts: WindowCounts::default(),
        }
    }

    /// A submission: `Err` is the hint of its refusal.
    pub(crate) fn submit(&mut self, at: Stamp) -> Result<(), Hint> {
        self.advance(at.now);
        if self.counts.in_flight < u64::from(self.course.level()) {
            self.grant(at.now);
            return Ok(());
        }
        Err(self.refuse(at))
    }

    /// A sample that was accepted has ended.
    pub(crate) fn ended(&mut self, now: Timestamp) {
        self.advance(now);
        let was_full = self.is_full();
        self.counts.in_flight = self.counts.in_flight.saturating_sub(1);
        self.counts.ended += 1;
        self.counts.last_end = Some(self.since_began(now));
        if was_full && !self.is_full() {
            self.room = now;
        }
    }

    /// What it saw up to `now`.
    pub(crate) fn counts(&mut self, now: Timestamp) -> WindowCounts {
        if self.began.is_some() {
            self.advance(now);
        }
        self.counts.clone()
    }

    fn grant(&mut self, now: Timestamp) {
        self.counts.accepted += 1;
        self.counts.in_flight += 1;
        self.counts.most_in_flight = self.counts.most_in_flight.max(self.counts.in_flight);
        let flows = self.counts.in_flight * 10 >= u64::from(self.course.level()) * 9;
        let room = self.room;
        let Some(open) = self.last.as_mut().filter(|open| open.until <= now) else {
            return;
        };
        let from = *open.from.get_or_insert(open.over.max(room));
        open.event.first_grant.get_or_insert(now.since(from));
        open.event.full_flow = flows.then(|| now.since(from));
        self.keep();
        if flows {
            self.last = None;
        }
    }

    fn refuse(&mut self, at: Stamp) -> Hint {
        let (hint, pause) = self.window.hint_at(at.wall);
        let over = at.now.after(pause);
        let is_hinted = self.window.form != HintForm::None;
        let until = if is_hinted {
            over
        } else {
            at.now.after(TOGETHER)
        };
        self.counts.refused += 1;
        if self.last.as_ref().is_none_or(|open| open.until <= at.now) {
            self.open(at.now);
        } else if is_hinted {
            self.counts.refused_within_hint += 1;
        }
        let since = self.since_began(over);
        if let Some(open) = &mut self.last {
            open.event.refused += 1;
            open.event.over = open.event.over.max(since);
            open.over = open.over.max(over);
            open.until = open.until.max(until);
        }
        self.keep();
        hint
    }

    fn open(&mut self, now: Timestamp) {
        self.counts.congestions += 1;
        let event = Congestion {
            began: self.since_began(now),
            in_flight: self.counts.in_flight,
            ..Congestion::default()
        };
        let place = self.counts.events.len();
        if place < WindowCounts::KEPT {
            self.counts.events.push(event.clone());
        }
        self.last = Some(Open {
            event,
            over: now,
            until: now,
            from: None,
            place,
        });
    }

    /// Writes the open event down.
    fn keep(&mut self) {
        if let Some(open) = &self.last
            && let Some(kept) = self.counts.events.get_mut(open.place)
        {
            kept.clone_from(&open.event);
        }
    }

    /// Brings the level up to `now`.
    fn advance(&mut self, now: Timestamp) {
        if self.began.is_none() {
            self.began = Some(now);
            self.since = now;
            self.room = now;
            self.note_level();
        }
        let Some(every) = self.course.every() else {
            return;
        };
        while self.since.after(every) <= now {
            let was_full = self.is_full();
            self.since = self.since.after(every);
            self.course.step();
            self.note_level();
            if was_full && !self.is_full() {
                self.room = self.since;
            }
        }
    }

    fn note_level(&mut self) {
        if self.counts.levels.len() < WindowCounts::KEPT {
            self.counts.levels.push(Level {
                at: self.since_began(self.since),
                most: self.course.level(),
            });
        }
    }

    fn is_full(&self) -> bool {
        self.counts.in_flight >= u64::from(self.course.level())
    }

    fn since_began(&self, now: Timestamp) -> Duration {
        now.since(self.began.unwrap_or(now))
    }
}
