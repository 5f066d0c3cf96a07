//! Reads numbers. Each refusal says what is expected.

use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

/// A whole number from 1.
pub(super) fn count(text: &str) -> Result<NonZeroU32, String> {
    text.parse()
        .map_err(|_| format!("expected a whole number from 1 to {}", u32::MAX))
}

/// A whole number from 0 that fits `T`.
pub(super) fn whole<T: FromStr + Bound>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("expected a whole number from 0 to {}", T::LARGEST))
}

/// The largest number of a type.
pub(super) trait Bound {
    const LARGEST: u64;
}

impl Bound for u16 {
    const LARGEST: u64 = Self::MAX as u64;
}

impl Bound for u32 {
    const LARGEST: u64 = Self::MAX as u64;
}

impl Bound for u64 {
    const LARGEST: Self = Self::MAX;
}

impl Bound for usize {
    const LARGEST: u64 = Self::MAX as u64;
}

/// A finite number from 0.
pub(super) fn learning_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok();
    rate.filter(|rate: &f64| rate.is_finite() && *rate >= 0.0)
        .ok_or_else(|| "expected a finite number, 0 or more".to_owned())
}

/// A length in seconds, above 0.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a number of seconds above 0, such as 0.5".to_owned();
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|length| !length.is_zero())
        .ok_or_else(wrong)
}

/// A length in whole seconds, from 1.
pub(super) fn whole_seconds(text: &str) -> Result<Duration, String> {
    let seconds = count(text).map_err(|_| "expected a whole number of seconds from 1")?;
    Ok(Duration::from_secs(seconds.get().into()))
}
