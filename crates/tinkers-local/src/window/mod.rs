//! A bound on samples in flight that may change over time, and how a 429 beyond it says when to come back.

mod counts;
mod levels;
mod state;

use std::time::{Duration, SystemTime};

pub use self::counts::{Congestion, Level, WindowCounts};
pub use self::levels::InvalidWindow;
pub(crate) use self::state::State;

use self::levels::Levels;
use crate::faults::Hint;

/// How many samples may be in flight: accepted and not ended. A submission beyond that is answered 429.
///
/// For measuring how close a client comes to what a server takes. The levels of one that changes follow from the time since
/// the first submission and, for a walk, from its seed, so a run can be repeated and compared with a client that knows them.
///
/// ```
/// # use std::time::Duration;
/// # use tinkers_local::{HintForm, LocalConfig, Window};
/// let window = Window::steps([20, 50, 10], Duration::from_secs(5))?
///     .with_hint(Duration::from_millis(200), HintForm::Milliseconds);
/// let mut config = LocalConfig::default();
/// config.window = Some(window);
/// # Ok::<(), tinkers_local::InvalidWindow>(())
/// ```
#[derive(Debug, Clone)]
pub struct Window {
    levels: Levels,
    hint: Duration,
    form: HintForm,
}

/// In which form a 429 says when to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HintForm {
    /// `retry-after-ms`.
    Milliseconds,
    /// `Retry-After` in whole seconds, rounded up.
    Seconds,
    /// `Retry-After` as a date, which is in whole seconds too and is rounded up.
    Date,
    /// `retry_after_ms` in the body.
    Body,
    /// It does not.
    None,
}

impl Window {
    /// The hint unless one is set.
    const HINT: Duration = Duration::from_secs(1);

    const fn of(levels: Levels) -> Self {
        Self {
            levels,
            hint: Self::HINT,
            form: HintForm::Milliseconds,
        }
    }

    /// No bound: nothing is refused, and everything is counted.
    pub const fn unbounded() -> Self {
        Self::of(Levels::Fixed(u32::MAX))
    }

    /// At most `most` at all times; 0 refuses everything.
    pub const fn fixed(most: u32) -> Self {
        Self::of(Levels::Fixed(most))
    }

    /// One level after the other, each for `every`, over and over.
    ///
    /// # Errors
    /// When there is no level, or `every` is below 10 ms.
    pub fn steps(
        levels: impl IntoIterator<Item = u32>,
        every: Duration,
    ) -> Result<Self, InvalidWindow> {
        Levels::steps(levels.into_iter().collect(), every).map(Self::of)
    }

    /// A random walk from the middle between `low` and `high`: every `every` up or down by at most a quarter of the way
    /// between the two, and turned back at either.
    ///
    /// # Errors
    /// When `low` is above `high`, or `every` is below 10 ms.
    pub fn walk(low: u32, high: u32, every: Duration, seed: u64) -> Result<Self, InvalidWindow> {
        Levels::walk(low, high, every, seed).map(Self::of)
    }

    /// What a 429 says, and how: 1 s in `retry-after-ms` unless set.
    #[must_use]
    pub const fn with_hint(mut self, hint: Duration, form: HintForm) -> Self {
        self.hint = hint;
        self.form = form;
        self
    }

    /// The hint of a 429 that leaves at `wall`, and how long from then it asks a client to stay away.
    fn hint_at(&self, wall: SystemTime) -> (Hint, Duration) {
        let ms = u64::try_from(self.hint.as_millis()).unwrap_or(u64::MAX);
        match self.form {
            HintForm::Milliseconds => (Hint::Milliseconds(ms), Duration::from_millis(ms)),
            HintForm::Body => (Hint::Body(ms), Duration::from_millis(ms)),
            HintForm::Seconds => {
                let seconds = whole_seconds(self.hint);
                (Hint::Seconds(seconds), Duration::from_secs(seconds))
            }
            HintForm::Date => {
                let now = wall
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap_or_default();
                let at = Duration::from_secs(whole_seconds(now.saturating_add(self.hint)));
                let date = SystemTime::UNIX_EPOCH + at;
                (Hint::Date(date), at.saturating_sub(now))
            }
            HintForm::None => (Hint::None, Duration::ZERO),
        }
    }
}

fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_never_shorter_than_it_was_set() {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_millis(10_400);
        let at = |ms, form| {
            Window::fixed(1)
                .with_hint(Duration::from_millis(ms), form)
                .hint_at(wall)
        };
        let ms = Duration::from_millis;
        assert_eq!(
            at(200, HintForm::Milliseconds),
            (Hint::Milliseconds(200), ms(200))
        );
        assert_eq!(at(200, HintForm::Body), (Hint::Body(200), ms(200)));
        assert_eq!(at(200, HintForm::Seconds), (Hint::Seconds(1), ms(1000)));
        assert_eq!(at(1000, HintForm::Seconds), (Hint::Seconds(1), ms(1000)));
        let date = |seconds| Hint::Date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(200, HintForm::Date), (date(11), ms(600)));
        assert_eq!(at(1000, HintForm::Date), (date(12), ms(1600)));
        assert_eq!(at(600, HintForm::Date), (date(11), ms(600)));
        assert_eq!(at(200, HintForm::None), (Hint::None, Duration::ZERO));
    }
}
