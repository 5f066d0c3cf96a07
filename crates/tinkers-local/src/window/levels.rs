//! The values of an in-flight limit over time.

use std::time::Duration;

use tinkers_core::{Jitter, SplitMix};

/// The values that a limit on samples in flight takes over time: one fixed value, a list, or a random walk.
#[derive(Debug, Clone)]
pub(super) enum Levels {
    Fixed(u32),
    Steps {
        levels: Vec<u32>,
        every: Duration,
    },
    Walk {
        low: u32,
        high: u32,
        every: Duration,
        seed: u64,
    },
}

/// An error in the parameters of a limit on samples in flight.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidWindow {
    /// The list of values of the limit is empty.
    #[error("levels: expected at least one")]
    NoLevels,
    /// The lowest value of the random walk is above the highest.
    #[error("low: expected at most high, {high}, got {low}")]
    Ends {
        /// The lowest value that was given.
        low: u32,
        /// The highest value that was given.
        high: u32,
    },
    /// The time between two changes of the limit is shorter than 10 ms.
    #[error("every: expected at least {MIN_INTERVAL:?}, got {0:?}")]
    TooOften(Duration),
}

/// The minimum time between two changes of the limit. Clients could not adapt to faster changes, and each change costs the server
/// time.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

impl Levels {
    pub(super) fn steps(levels: Vec<u32>, every: Duration) -> Result<Self, InvalidWindow> {
        if levels.is_empty() {
            return Err(InvalidWindow::NoLevels);
        }
        check(every)?;
        Ok(Self::Steps { levels, every })
    }

    pub(super) fn walk(
        low: u32,
        high: u32,
        every: Duration,
        seed: u64,
    ) -> Result<Self, InvalidWindow> {
        if low > high {
            return Err(InvalidWindow::Ends { low, high });
        }
        check(every)?;
        Ok(Self::Walk {
            low,
            high,
            every,
            seed,
        })
    }

    /// Returns the sequence of values of the limit, positioned at its first value.
    pub(super) fn start(&self) -> LevelSequence {
        match self {
            Self::Fixed(level) => LevelSequence::Fixed(*level),
            Self::Steps { levels, every } => LevelSequence::Steps {
                levels: levels.clone(),
                every: *every,
                index: 0,
            },
            Self::Walk {
                low,
                high,
                every,
                seed,
            } => LevelSequence::Walk {
                low: *low,
                high: *high,
                every: *every,
                level: low + (high - low) / 2,
                random: SplitMix::new(*seed),
            },
        }
    }
}

fn check(every: Duration) -> Result<(), InvalidWindow> {
    if every < MIN_INTERVAL {
        return Err(InvalidWindow::TooOften(every));
    }
    Ok(())
}

/// The values of a limit on samples in flight, and the current position in them.
#[derive(Debug)]
pub(super) enum LevelSequence {
    Fixed(u32),
    Steps {
        levels: Vec<u32>,
        every: Duration,
        index: usize,
    },
    Walk {
        low: u32,
        high: u32,
        every: Duration,
        level: u32,
        random: SplitMix,
    },
}

impl LevelSequence {
    /// Returns the current value of the limit.
    pub(super) fn level(&self) -> u32 {
        match self {
            Self::Fixed(level) | Self::Walk { level, .. } => *level,
            Self::Steps { levels, index, .. } => levels[*index % levels.len()],
        }
    }

    /// Returns the time between two changes of the limit. Returns `None` if the limit is fixed.
    pub(super) fn every(&self) -> Option<Duration> {
        match self {
            Self::Fixed(_) => None,
            Self::Steps { every, .. } | Self::Walk { every, .. } => Some(*every),
        }
    }

    /// Advances to the next value of the limit.
    pub(super) fn step(&mut self) {
        match self {
            Self::Fixed(_) => {}
            Self::Steps { levels, index, .. } => *index = (*index + 1) % levels.len(),
            Self::Walk {
                low,
                high,
                level,
                random,
                ..
            } => {
                let (bottom, top) = (f64::from(*low), f64::from(*high));
                let max_change = (top - bottom) / 4.0;
                let mut next = f64::from(*level) + (2.0 * random.unit() - 1.0) * max_change;
                if next > top {
                    next = 2.0 * top - next;
                }
                if next < bottom {
                    next = 2.0 * bottom - next;
                }
                // The value is a whole number between two u32, so the cast is exact.
                *level = next.round().clamp(bottom, top) as u32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn first_levels(levels: &Levels, n: usize) -> Vec<u32> {
        let mut sequence = levels.start();
        let mut seen = Vec::new();
        for _ in 0..n {
            seen.push(sequence.level());
            sequence.step();
        }
        seen
    }

    #[test]
    fn list_of_in_flight_limits_starts_again_after_the_last_value() {
        let levels = Levels::steps(vec![20, 50, 10], SECOND).unwrap();
        assert_eq!(first_levels(&levels, 5), [20, 50, 10, 20, 50]);
    }

    #[test]
    fn random_walk_of_limits_is_bounded_and_determined_by_its_seed() {
        let walk = |seed| Levels::walk(5, 80, SECOND, seed).unwrap();
        let seen = first_levels(&walk(1), 1000);
        assert_eq!(seen[0], 42);
        assert!(seen.iter().all(|level| (5..=80).contains(level)));
        assert!(seen.iter().any(|level| *level < 15) && seen.iter().any(|level| *level > 70));
        assert!(seen.windows(2).all(|pair| pair[0].abs_diff(pair[1]) <= 19));
        assert_eq!(seen, first_levels(&walk(1), 1000));
        assert_ne!(seen, first_levels(&walk(2), 1000));
        assert_eq!(
            first_levels(&Levels::walk(7, 7, SECOND, 1).unwrap(), 3),
            [7, 7, 7]
        );
    }

    #[test]
    fn invalid_in_flight_limits_are_refused() {
        let too_short = Duration::from_millis(9);
        assert_eq!(
            Levels::steps(vec![], SECOND).unwrap_err(),
            InvalidWindow::NoLevels
        );
        assert_eq!(
            Levels::steps(vec![1], too_short).unwrap_err(),
            InvalidWindow::TooOften(too_short)
        );
        let error = Levels::walk(9, 8, SECOND, 1).unwrap_err();
        assert_eq!(error.to_string(), "low: expected at most high, 8, got 9");
        assert!(Levels::walk(1, 2, too_short, 1).is_err());
    }
}
