//! Whether refusals say anything about how many the server takes: a lower level that is refused again was no news of the server.

/// Tells refusals that a lower level ends from those that go on however low it is. A plain value of [`AdaptiveLimit`](crate::AdaptiveLimit).
///
/// A window that is lowered to what the server takes is refused again only by a trial. So a refusal that no trial asked for is a
/// doubt, which accepted requests take away again. Too many doubts at once are weather: the level is again what it was before
/// them, and refusals do not lower it until so many in a row come with nothing accepted beyond the lowest of them that a window
/// must be there. A height that was left far, or in weather, is gone back to by steps that double.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Weather {
    /// The level before the refusals that no trial asked for; [`Weather::UNKNOWN`] where there was none.
    height: Option<u32>,
    /// In accepted requests that there must be to have none.
    doubt: u32,
    is_stormy: bool,
    /// Whether it was stormy since the height was left.
    was_stormy: bool,
    /// Refusals in a row with nothing accepted beyond the lowest of them, and how many were accepted at that one.
    firm: u32,
    lowest: u32,
    /// Accepted since the last refusal.
    quiet: u32,
    /// Whether the way back to the height is being gone.
    is_climbing: bool,
    /// Trials that were lost in a row since the height was left.
    lost: u32,
    /// The most that the server had at once while no level was known. A refusal of the first few behind a pause would else be taken for
    /// all that it takes.
    peak: u32,
}

/// What a refusal says that no trial asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The server takes no more than it did at that moment.
    News,
    /// The weather has begun: the level is this one again, or unknown.
    Restored(Option<u32>),
    /// Nothing.
    Weather,
    /// The weather is over, or was none: the server takes so many.
    Firm(u32),
}

/// What a lost trial says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The level was found out as ever.
    Paced,
    /// It was one on the way back, which is not paid for by a pause of its own.
    Climb,
}

impl Weather {
    const UNKNOWN: u32 = u32::MAX;
    /// Accepted requests that take away the doubt of one refusal.
    const PER_REFUSAL: u32 = 80;
    /// So much doubt is weather: three refusals within 40 accepted requests.
    const STORMY: u32 = 200;
    const MOST: u32 = 240;
    /// So many refusals in a row with nothing beyond the lowest of them make a level; when weather has just been supposed, one.
    const FIRM: u32 = 4;
    /// Going beyond a refusal is more than so much of it, as answers do not come in the order of their requests.
    const BEYOND: u32 = 8;
    /// Nothing is tried before so many were accepted without a refusal, and as many as the level.
    const LEAST_QUIET: u32 = 8;
    /// A fall to so much of the height or less is far.
    const FAR: u32 = 2;
    /// Fewer are a beginning, and no height.
    const LEAST_PEAK: u32 = 8;
    /// So many lost trials in a row end the way back after weather.
    const LOST: u32 = 2;

    pub(crate) const fn new() -> Self {
        Self {
            height: None,
            doubt: 0,
            is_stormy: false,
            was_stormy: false,
            firm: 0,
            lowest: 0,
            quiet: 0,
            is_climbing: false,
            lost: 0,
            peak: 0,
        }
    }

    /// Whether refusals say nothing now, so that there is nothing to be learned from a trial.
    pub(crate) const fn is_stormy(&self) -> bool {
        self.is_stormy
    }

    /// A refusal that no trial asked for, with `accepted` (not 0) at the server.
    pub(crate) fn refused(&mut self, level: Option<u32>, accepted: u32) -> Reading {
        let level = level.unwrap_or(Self::UNKNOWN);
        let height = self.height.map_or(level, |height| height.max(level));
        self.height = Some(height);
        self.doubt = (self.doubt + Self::PER_REFUSAL).min(Self::MOST);
        self.quiet = 0;
        self.is_climbing = false;
        self.lowest = match self.firm {
            0 => accepted,
            _ => self.lowest.min(accepted),
        };
        self.firm = (self.firm + 1).min(Self::FIRM);
        match (self.is_stormy, self.doubt >= Self::STORMY) {
            (false, false) => Reading::News,
            (false, true) => {
                self.is_stormy = true;
                self.was_stormy = true;
                self.lost = 0;
                Reading::Restored((height != Self::UNKNOWN).then_some(height))
            }
            (true, _) if self.firm < Self::FIRM => Reading::Weather,
            (true, _) => {
                self.clear();
                Reading::Firm(self.lowest)
            }
        }
    }

    /// A request was accepted, which makes so many.
    pub(crate) fn accepted(&mut self, level: Option<u32>, accepted: u32) {
        self.quiet = self.quiet.saturating_add(1);
        self.doubt = self.doubt.saturating_sub(1);
        if level.is_none() && accepted >= Self::LEAST_PEAK {
            self.peak = self.peak.max(accepted);
        }
        if accepted > self.lowest + (self.lowest / Self::BEYOND).max(1) {
            self.firm = 0;
        }
        if self.doubt == 0 {
            self.clear();
        }
        let is_kept = |level: u32| {
            self.was_stormy || self.is_climbing || self.doubt > 0 || self.is_far(level)
        };
        let is_left = |level: u32| self.is_below(level) && is_kept(level);
        if !self.is_stormy && !level.is_some_and(is_left) {
            self.forget();
        }
    }

    /// A trial was refused beyond its level: there is a window.
    pub(crate) fn trial_lost(&mut self) -> Lost {
        self.quiet = 0;
        self.lost += 1;
        let was_climbing = std::mem::take(&mut self.is_climbing);
        if !self.was_stormy || self.lost >= Self::LOST {
            self.forget();
        }
        if was_climbing {
            Lost::Climb
        } else {
            Lost::Paced
        }
    }

    /// A trial was won.
    pub(crate) fn trial_won(&mut self) {
        self.lost = 0;
    }

    /// How high the way back from `level` goes, while it is being gone. After a far fall without weather it begins only when that
    /// is due.
    pub(crate) fn climbs_to(&mut self, level: u32, is_due: bool) -> Option<u32> {
        if self.is_stormy || !self.is_below(level) {
            return None;
        }
        if !self.is_climbing {
            let is_wanted = self.was_stormy || is_due && self.is_far(level);
            self.is_climbing = is_wanted && self.quiet >= level.max(Self::LEAST_QUIET);
        }
        self.goal().filter(|_| self.is_climbing)
    }

    /// How high the way back goes. Where no level was known it is as high as the server was seen to go, and after weather as high as it
    /// takes.
    fn goal(&self) -> Option<u32> {
        self.height.map(|height| match height {
            Self::UNKNOWN if !self.was_stormy => self.peak,
            height => height,
        })
    }

    fn is_below(&self, level: u32) -> bool {
        self.goal().is_some_and(|goal| level < goal)
    }

    fn is_far(&self, level: u32) -> bool {
        let known = self.goal().filter(|goal| *goal != Self::UNKNOWN);
        known.is_some_and(|goal| goal / Self::FAR >= level)
    }

    fn clear(&mut self) {
        self.is_stormy = false;
        self.doubt = 0;
        self.firm = 0;
    }

    fn forget(&mut self) {
        self.height = None;
        self.was_stormy = false;
        self.is_climbing = false;
        self.lost = 0;
    }
}

#[cfg(all(test, not(tinkers_loom)))]
#[path = "weather_tests.rs"]
mod tests;
