//! Parsers of numeric arguments.

use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

/// Parses a positive integer.
pub(super) fn positive(text: &str) -> Result<NonZeroU32, String> {
    text.parse()
        .map_err(|_| format!("expected an integer from 1 to {}", u32::MAX))
}

/// Parses an unsigned integer.
pub(super) fn integer<T: FromStr + Bounded>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("expected an integer from 0 to {}", T::MAX))
}

/// An unsigned integer type. Error messages name its largest value.
pub(super) trait Bounded {
    const MAX: u64;
}

impl Bounded for u16 {
    const MAX: u64 = Self::MAX as u64;
}

impl Bounded for u32 {
    const MAX: u64 = Self::MAX as u64;
}

impl Bounded for u64 {
    const MAX: Self = Self::MAX;
}

impl Bounded for usize {
    const MAX: u64 = Self::MAX as u64;
}

/// Parses a learning rate: a finite number of at least 0.
pub(super) fn learning_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok();
    rate.filter(|rate: &f64| rate.is_finite() && *rate >= 0.0)
        .ok_or_else(|| "expected a finite number, 0 or more".to_owned())
}

/// Parses a positive duration in seconds.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let error = || "expected a number of seconds above 0, such as 0.5".to_owned();
    let seconds: f64 = text.parse().map_err(|_| error())?;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|duration| !duration.is_zero())
        .ok_or_else(error)
}

/// Parses a positive duration in whole seconds.
pub(super) fn whole_seconds(text: &str) -> Result<Duration, String> {
    let seconds = positive(text).map_err(|_| "expected a whole number of seconds, at least 1")?;
    Ok(Duration::from_secs(seconds.get().into()))
}
