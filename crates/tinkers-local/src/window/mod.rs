//! A limit on the samples in flight, which may change over time, and the `retry-after` hint of the 429 responses beyond the limit.

mod counts;
mod levels;
mod limiter;

use std::time::{Duration, SystemTime};

pub use self::counts::{Congestion, WindowCounts, WindowLevel};
pub use self::levels::InvalidWindow;
pub(crate) use self::limiter::WindowLimiter;

use self::levels::Levels;
use crate::faults::Hint;

/// A limit on the number of samples in flight. A sample is in flight from the acceptance of its request until it ends. The server
/// refuses sample requests beyond the limit with 429.
///
/// Use the limit to measure how much of the capacity of a server a client uses. The value of the limit depends only on the time
/// since the first sample request and, for a random walk, on the seed. So a run can be repeated, and compared with a client that
/// knows the values in advance.
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

/// How a 429 response encodes the `retry-after` hint, the delay after which a client may retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HintForm {
    /// The header `retry-after-ms` contains the delay in milliseconds.
    Milliseconds,
    /// The header `Retry-After` contains the delay in seconds, rounded up.
    Seconds,
    /// The header `Retry-After` contains the date at which the delay ends, rounded up to a whole second.
    Date,
    /// The field `retry_after_ms` of the response body contains the delay in milliseconds.
    Body,
    /// The response contains no `retry-after` hint.
    None,
}

impl Window {
    /// The default delay for which the `retry-after` hint of a 429 response asks.
    const HINT: Duration = Duration::from_secs(1);

    const fn of(levels: Levels) -> Self {
        Self {
            levels,
            hint: Self::HINT,
            form: HintForm::Milliseconds,
        }
    }

    /// Creates a limit that refuses no samples. It only counts them.
    pub const fn unbounded() -> Self {
        Self::of(Levels::Fixed(u32::MAX))
    }

    /// Creates a limit with a fixed value. The value 0 refuses all samples.
    pub const fn fixed(level: u32) -> Self {
        Self::of(Levels::Fixed(level))
    }

    /// Creates a limit that takes these values in turn, each for the time `every`. After the last value, the limit starts again
    /// with the first one.
    ///
    /// # Errors
    ///
    /// If there is no value, or `every` is below 10 ms.
    pub fn steps(
        levels: impl IntoIterator<Item = u32>,
        every: Duration,
    ) -> Result<Self, InvalidWindow> {
        Levels::steps(levels.into_iter().collect(), every).map(Self::of)
    }

    /// Creates a limit whose value is a random walk between `low` and `high`. It starts in the middle and is reflected at both
    /// ends. After each `every`, the value changes by at most a quarter of `high - low`.
    ///
    /// # Errors
    ///
    /// If `low` is above `high`, or `every` is below 10 ms.
    pub fn walk(low: u32, high: u32, every: Duration, seed: u64) -> Result<Self, InvalidWindow> {
        Levels::walk(low, high, every, seed).map(Self::of)
    }

    /// Sets the `retry-after` hint of the 429 responses and how it is encoded. The default is 1 s in the header `retry-after-ms`.
    #[must_use]
    pub const fn with_hint(mut self, hint: Duration, form: HintForm) -> Self {
        self.hint = hint;
        self.form = form;
        self
    }

    /// Returns the `retry-after` hint of a 429 response that is sent at `wall`, and the delay for which the hint asks.
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
    fn retry_after_hint_is_never_rounded_down() {
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
