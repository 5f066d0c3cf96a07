//! The levels of a window over time.

use std::time::Duration;

use tinkers_core::{Jitter, SplitMix};

/// How the bound changes.
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

/// Why a window cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidWindow {
    /// No levels to step through.
    #[error("levels: expected at least one")]
    NoLevels,
    /// The ends of a walk are the wrong way round.
    #[error("low: expected at most high, {high}, got {low}")]
    Ends {
        /// The lower end as given.
        low: u32,
        /// The upper end as given.
        high: u32,
    },
    /// It would change too often.
    #[error("every: expected at least {SHORTEST:?}, got {0:?}")]
    TooOften(Duration),
}

/// Changes that come faster are noise to any client, and work to keep up with.
const SHORTEST: Duration = Duration::from_millis(10);

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

    /// From the first level on, each with how long it holds; `None` for one that holds for ever.
    pub(super) fn start(&self) -> Course {
        match self {
            Self::Fixed(level) => Course::Fixed(*level),
            Self::Steps { levels, every } => Course::Steps {
                levels: levels.clone(),
                every: *every,
                at: 0,
            },
            Self::Walk {
                low,
                high,
                every,
                seed,
            } => Course::Walk {
                low: *low,
                high: *high,
                every: *every,
                level: low + (high - low) / 2,
                chance: SplitMix::new(*seed),
            },
        }
    }
}

fn check(every: Duration) -> Result<(), InvalidWindow> {
    if every < SHORTEST {
        return Err(InvalidWindow::TooOften(every));
    }
    Ok(())
}

/// Where the levels are.
#[derive(Debug)]
pub(super) enum Course {
    Fixed(u32),
    Steps {
        levels: Vec<u32>,
        every: Duration,
        at: usize,
    },
    Walk {
        low: u32,
        high: u32,
        every: Duration,
        level: u32,
        chance: SplitMix,
    },
}

impl Course {
    /// The level now.
    pub(super) fn level(&self) -> u32 {
        match self {
            Self::Fixed(level) | Self::Walk { level, .. } => *level,
            Self::Steps { levels, at, .. } => levels[*at % levels.len()],
        }
    }

    /// How long a level holds.
    pub(super) fn every(&self) -> Option<Duration> {
        match self {
            Self::Fixed(_) => None,
            Self::Steps { every, .. } | Self::Walk { every, .. } => Some(*every),
        }
    }

    /// To the next level.
    pub(super) fn step(&mut self) {
        match self {
            Self::Fixed(_) => {}
            Self::Steps { levels, at, .. } => *at = (*at + 1) % levels.len(),
            Self::Walk {
                low,
                high,
                level,
                chance,
                ..
            } => {
                let (bottom, top) = (f64::from(*low), f64::from(*high));
                let reach = (top - bottom) / 4.0;
                let mut next = f64::from(*level) + (2.0 * chance.unit() - 1.0) * reach;
                if next > top {
                    next = 2.0 * top - next;
                }
                if next < bottom {
                    next = 2.0 * bottom - next;
                }
                // Between two numbers of 32 bits, so the cast is exact.
                *level = next.round().clamp(bottom, top) as u32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn first(levels: &Levels, n: usize) -> Vec<u32> {
        let mut course = levels.start();
        let mut seen = Vec::new();
        for _ in 0..n {
            seen.push(course.level());
            course.step();
        }
        seen
    }

    #[test]
    fn steps_come_round_again() {
        let levels = Levels::steps(vec![20, 50, 10], SECOND).unwrap();
        assert_eq!(first(&levels, 5), [20, 50, 10, 20, 50]);
    }

    #[test]
    fn a_walk_stays_within_its_ends_moves_and_is_its_seeds() {
        let walk = |seed| Levels::walk(5, 80, SECOND, seed).unwrap();
        let seen = first(&walk(1), 1000);
        assert_eq!(seen[0], 42);
        assert!(seen.iter().all(|level| (5..=80).contains(level)));
        assert!(seen.iter().any(|level| *level < 15) && seen.iter().any(|level| *level > 70));
        assert!(seen.windows(2).all(|pair| pair[0].abs_diff(pair[1]) <= 19));
        assert_eq!(seen, first(&walk(1), 1000));
        assert_ne!(seen, first(&walk(2), 1000));
        assert_eq!(first(&Levels::walk(7, 7, SECOND, 1).unwrap(), 3), [7, 7, 7]);
    }

    #[test]
    fn what_cannot_be_a_window_is_refused() {
        let often = Duration::from_millis(9);
        assert_eq!(
            Levels::steps(vec![], SECOND).unwrap_err(),
            InvalidWindow::NoLevels
        );
        assert_eq!(
            Levels::steps(vec![1], often).unwrap_err(),
            InvalidWindow::TooOften(often)
        );
        let error = Levels::walk(9, 8, SECOND, 1).unwrap_err();
        assert_eq!(error.to_string(), "low: expected at most high, 8, got 9");
        assert!(Levels::walk(1, 2, often, 1).is_err());
    }
}
