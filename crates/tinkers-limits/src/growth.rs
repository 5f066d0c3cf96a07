//! How many the server takes at once, as far as its refusals tell: the learned level, and the trials beyond it.

use std::time::Duration;

use crate::weather::{Lost, Reading, Weather};

/// Learns how many requests may be in flight. A plain value: whoever owns it feeds it what happens while somebody waits or
/// the server refuses, and sets the window to [`AdaptiveLimit::limit`].
///
/// Until the first refusal there is no level. A refusal names one: what the server had accepted at that moment. Beyond it
/// only trials go, paced by what their refusals cost. Refusals that go on however few are in flight name none; the project's
/// docs/decisions/0005 has the reasons and the figures.
#[derive(Debug, Clone, PartialEq)]
pub struct AdaptiveLimit {
    floor: u32,
    ceiling: u32,
    level: Option<u32>,
    trial: Option<Trial>,
    pace: Pace,
    weather: Weather,
}

/// A refusal as the window sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusalContext {
    /// When.
    pub now: Duration,
    /// Whether it is a congestion event of its own.
    pub first_of_its_event: bool,
    /// Requests that the server had accepted and not finished.
    pub accepted: u32,
    /// For how long it closed the gate.
    pub closed_for: Duration,
}

/// Why a limit changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The first refusal named a level.
    Learned,
    /// The server took fewer than the level.
    Lowered,
    /// A trial beyond the level began.
    TrialBegun,
    /// The server took enough beyond the level.
    TrialWon,
    /// A trial was refused.
    TrialLost,
    /// Answers that were under way show that the server took more.
    Corrected,
    /// Refusals go on however few are in flight, so they say nothing about how many the server takes: the limit is what it was
    /// before them.
    Restored,
}

/// So many beyond the level are tried at once, and so many were accepted there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Trial {
    target: u32,
    won: u32,
}

/// When the next trial may be, and how large.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Pace {
    step: u32,
    /// No trial before this.
    not_before: Duration,
    /// No way back up from a far fall before this.
    no_return_before: Duration,
    /// Trials lost in a row.
    lost: u32,
    /// The level at which the last one was lost.
    lost_at: u32,
    /// Accepted requests less what refusals cost. Below zero there is no trial: refusals are to stay few.
    credit: i64,
    /// Whether the gate is closed.
    is_closed: bool,
    /// Whether the last pause has not been paid for with a pause between trials.
    is_unpaid: bool,
    /// For how long it was closed last.
    closed_for: Duration,
    /// Since when it holds back what there would be room for.
    held_since: Option<Duration>,
    /// Whether a part was just yielded.
    yielded: bool,
    /// The part of the pause in which the window stood idle.
    idle_share: f64,
}

impl AdaptiveLimit {
    /// A lost trial is followed by at least so many times what it cost without one: the time in which the window stood idle.
    const COSTS_BETWEEN: u32 = 20;
    /// And by so many times its closure, should it have cost nothing.
    const CLOSURES_BETWEEN: u32 = 2;
    /// A far fall is tried again after so many times what it cost, once.
    const COSTS_TO_RETURN: u32 = 4;
    /// Of several closures without a full window in between one counts there: at most so many times the last one.
    const MOST_OF_ONE: u32 = 2;
    /// The same after many lost ones in a row.
    const LONGEST_BETWEEN: Duration = Duration::from_secs(60);
    /// The pause doubles so often for lost trials in a row.
    const DOUBLINGS: u32 = 2;
    /// Trials are lost in a row while the level stays within this part of itself.
    const NEAR: u32 = 8;
    /// A trial goes at most this part of the level beyond it, so that it cannot cost more refusals.
    const LARGEST_STEP: u32 = 8;
    /// It is won by at least this part of the level beyond it: what a client that is closed out leaves free must not all be taken
    /// by another one meanwhile.
    const LEAST_TO_WIN: u32 = 12;
    /// The same where a closure is as long as a request, so that whoever is closed out has nothing left.
    const LEAST_TO_WIN_DRAINED: u32 = 9;
    /// These parts are at most so many.
    const MOST_LEAST_TO_WIN: u32 = 3;
    /// Each refusal is paid for by so many accepted requests.
    const ACCEPTED_PER_REFUSAL: i64 = 25;
    /// So much is saved up at most.
    const MOST_CREDIT: i64 = 500;
    /// So much is owed at most: this, and so many windows.
    const LEAST_DEBT: i64 = 8;
    const WINDOWS_OF_DEBT: i64 = 4;
    /// A refusal at a level that the server took before lowers it by this part.
    const LOWERED_BY: u32 = 7;
    /// After so many lost trials in a row a part is yielded for a pause, so that another process gets its share.
    const LOST_TO_YIELD: u32 = 4;
    /// The part that is yielded.
    const YIELDED: u32 = 6;

    /// Nothing is known yet. The limit stays from `floor` (at least 1) to `ceiling`.
    pub fn new(floor: u32, ceiling: u32) -> Self {
        let floor = floor.max(1);
        Self {
            floor,
            ceiling: ceiling.max(floor),
            level: None,
            trial: None,
            pace: Pace::new(),
            weather: Weather::new(),
        }
    }

    /// The most that may be in flight now.
    pub fn limit(&self) -> u32 {
        match (self.level, self.trial) {
            (None, _) => self.ceiling,
            (Some(level), None) => level,
            (Some(_), Some(trial)) => trial.target,
        }
    }

    /// The level that was learned; `None` before the first refusal.
    pub const fn level(&self) -> Option<u32> {
        self.level
    }

    /// Another ceiling, such as a server's configuration names.
    pub fn set_ceiling(&mut self, ceiling: u32) {
        self.ceiling = ceiling.max(self.floor);
        if let Some(level) = self.level {
            self.level = Some(level.min(self.ceiling));
        }
        self.trial = None;
    }

    /// The server refused a request.
    pub fn refused(&mut self, seen: RefusalContext) -> Option<Change> {
        let most_debt =
            Self::LEAST_DEBT + Self::WINDOWS_OF_DEBT * i64::from(self.level.unwrap_or(u32::MAX));
        self.pace.credit = (self.pace.credit - Self::ACCEPTED_PER_REFUSAL).max(-most_debt);
        if !seen.first_of_its_event {
            return None;
        }
        self.pace.is_closed = true;
        self.pace.is_unpaid = true;
        self.pace.closed_for = seen.closed_for;
        let trial = self.trial.take();
        if seen.accepted == 0 {
            // Nothing of ours was there, so whatever is full, we did not fill it: how many we may have is not to be learned from it.
            return trial.map(|_| Change::TrialLost);
        }
        let accepted = self.bounded(seen.accepted);
        let is_asked_for = trial.is_some() && self.level.is_some_and(|level| accepted >= level);
        if is_asked_for {
            return Some(self.trial_refused(accepted));
        }
        match self.weather.refused(self.level, accepted) {
            Reading::News => self.refused_unasked(accepted, trial.is_some()),
            Reading::Weather => {
                self.pace.is_unpaid = false;
                None
            }
            Reading::Restored(level) => {
                self.level = level.map(|level| self.bounded(level));
                self.pace.forgive();
                Some(Change::Restored)
            }
            Reading::Firm(level) => {
                self.level = Some(self.bounded(level));
                self.pace.lost_one(level);
                Some(Change::Lowered)
            }
        }
    }

    /// There is room, and the gate holds somebody back.
    pub fn held_back(&mut self, now: Duration) {
        if self.pace.is_closed && self.pace.is_unpaid {
            self.pace.held_since.get_or_insert(now);
        }
    }

    /// The gate is open again, with `in_flight` still under way.
    pub fn reopened(&mut self, in_flight: u32) {
        self.pace.is_closed = false;
        self.pace.idle_share = idle_share(self.level.unwrap_or(0), in_flight);
    }

    /// The gate was seen open. Whoever tells of a refusal may come after whoever tells of the probe that opened the gate again; without
    /// this the gate would stay closed here for ever.
    pub fn found_open(&mut self, in_flight: u32) {
        if self.pace.is_closed {
            self.reopened(in_flight);
        }
    }

    /// A request was accepted while others wait, or that was sent before the last refusal (`is_straggler`); `accepted` are
    /// now in flight.
    pub fn accepted(&mut self, accepted: u32, is_straggler: bool) -> Option<Change> {
        self.pace.credit = (self.pace.credit + 1).min(Self::MOST_CREDIT);
        self.weather.accepted(self.level, accepted);
        let level = self.level?;
        if accepted <= level {
            return None;
        }
        if is_straggler {
            self.level = Some(self.bounded(accepted));
            return Some(Change::Corrected);
        }
        let trial = self.trial.as_mut()?;
        trial.won += 1;
        let least = (level / self.pace.least_to_win()).min(Self::MOST_LEAST_TO_WIN);
        if trial.won < least.max(trial.target - level) {
            return None;
        }
        self.level = Some(trial.target);
        self.trial = None;
        self.pace.won_one();
        self.weather.trial_won();
        Some(Change::TrialWon)
    }

    /// Somebody waits because the window is full: begins a trial when one is due.
    pub fn is_wanted(&mut self, now: Duration) -> Option<Change> {
        let level = self.level?;
        self.pace.full_again(now);
        let is_barred = self.pace.is_closed || self.trial.is_some() || self.weather.is_stormy();
        if is_barred || level >= self.ceiling {
            return None;
        }
        let step = match self
            .weather
            .climbs_to(level, now >= self.pace.no_return_before)
        {
            Some(height) => self.pace.step.min(height - level),
            None if now < self.pace.not_before || self.pace.credit < 0 => return None,
            None => self.pace.step.min((level / Self::LARGEST_STEP).max(1)),
        };
        let target = level.saturating_add(step).min(self.ceiling);
        self.trial = Some(Trial { target, won: 0 });
        Some(Change::TrialBegun)
    }

    /// A trial was refused with at least the level accepted.
    fn trial_refused(&mut self, accepted: u32) -> Change {
        let lost = self.weather.trial_lost();
        let level = self.level.unwrap_or(accepted);
        // What the server took is what it takes.
        self.level = Some(accepted);
        if lost == Lost::Climb {
            self.pace.step = 1;
            self.pace.is_unpaid = false;
            return Change::TrialLost;
        }
        self.pace.lost_one(accepted);
        if accepted == level && self.pace.lost.is_multiple_of(Self::LOST_TO_YIELD) {
            self.level = Some(self.bounded(level - level / Self::YIELDED));
            self.pace.yielded = true;
        }
        Change::TrialLost
    }

    /// The server refused what no trial asked for.
    fn refused_unasked(&mut self, accepted: u32, is_trial: bool) -> Option<Change> {
        let Some(level) = self.level else {
            self.level = Some(accepted);
            self.pace.lost_one(accepted);
            return Some(Change::Learned);
        };
        if accepted < level {
            // What the server took is what it takes.
            self.level = Some(accepted);
            self.pace.lost_one(accepted);
            return Some(if is_trial {
                Change::TrialLost
            } else {
                Change::Lowered
            });
        }
        self.pace.lost_one(level);
        if accepted > level {
            // What is left from a higher level says nothing about this one.
            return None;
        }
        // Refused at a level that it took before: somebody else is there, too.
        self.level = Some(self.bounded(level - level.div_ceil(Self::LOWERED_BY)));
        Some(Change::Lowered)
    }

    fn bounded(&self, level: u32) -> u32 {
        level.clamp(self.floor, self.ceiling)
    }
}

/// The part of a pause in which the window stood idle, when `in_flight` of `level` are left after it: they end one after
/// the other.
fn idle_share(level: u32, in_flight: u32) -> f64 {
    if in_flight == 0 {
        return 1.0;
    }
    let left = f64::from(in_flight) / f64::from(level.max(1));
    (1.0 - left).max(0.0) / 2.0
}

impl Pace {
    const fn new() -> Self {
        Self {
            step: 1,
            not_before: Duration::ZERO,
            no_return_before: Duration::ZERO,
            lost: 0,
            lost_at: 0,
            credit: 0,
            is_closed: false,
            is_unpaid: false,
            closed_for: Duration::ZERO,
            held_since: None,
            yielded: false,
            idle_share: 1.0,
        }
    }

    /// The part of a level by which a trial is won at least.
    fn least_to_win(&self) -> u32 {
        if self.idle_share < 1.0 {
            AdaptiveLimit::LEAST_TO_WIN
        } else {
            AdaptiveLimit::LEAST_TO_WIN_DRAINED
        }
    }

    /// `level` is what the server took. Near the last one it is one more in a row.
    fn lost_one(&mut self, level: u32) {
        let near = level.abs_diff(self.lost_at) <= (level / AdaptiveLimit::NEAR).max(1);
        self.lost = if near { self.lost + 1 } else { 1 };
        self.lost_at = level;
        self.step = 1;
    }

    /// The window is full for the first time since a pause: what the pause cost says how long there is to be no other.
    fn full_again(&mut self, now: Duration) {
        if self.is_closed || !std::mem::take(&mut self.is_unpaid) {
            return;
        }
        let held_since = self.held_since.take().unwrap_or(now);
        let idle = now.saturating_sub(held_since).mul_f64(self.idle_share);
        let doublings = if std::mem::take(&mut self.yielded) {
            0
        } else {
            self.lost.saturating_sub(1).min(AdaptiveLimit::DOUBLINGS)
        };
        let least = self
            .closed_for
            .saturating_mul(AdaptiveLimit::CLOSURES_BETWEEN);
        let pause = idle
            .saturating_mul(AdaptiveLimit::COSTS_BETWEEN)
            .max(least)
            .saturating_mul(1 << doublings)
            .min(AdaptiveLimit::LONGEST_BETWEEN);
        self.not_before = now.saturating_add(pause);
        let cost = idle.min(self.closed_for.saturating_mul(AdaptiveLimit::MOST_OF_ONE));
        let cost = cost.saturating_mul(AdaptiveLimit::COSTS_TO_RETURN);
        self.no_return_before = now.saturating_add(cost);
    }

    /// What was refused has nothing to do with the level, so nothing is to be paid for it.
    fn forgive(&mut self) {
        self.is_unpaid = false;
        self.held_since = None;
        self.not_before = Duration::ZERO;
        self.lost = 0;
        self.step = 1;
    }

    fn won_one(&mut self) {
        self.step = self.step.saturating_mul(2);
        self.not_before = Duration::ZERO;
    }
}

#[cfg(all(test, not(tinkers_loom)))]
#[path = "growth_tests.rs"]
mod tests;
