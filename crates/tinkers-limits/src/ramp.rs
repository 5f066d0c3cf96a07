//! How many requests may be unanswered at once, by how many were accepted: the slow start, and the ramp after a pause.

use crate::word::Word;

/// Bounds what a surprise can cost. At the start nobody knows what the server takes, so the requests that have no answer yet are at most
/// a quarter of those that were accepted; after a pause, on the way back to a level that is known, they are at most as many. Never fewer
/// than [`Ramp::LEAST`].
#[derive(Debug)]
pub struct Ramp {
    word: Word,
}

impl Ramp {
    /// So many may always be unanswered.
    pub const LEAST: u32 = 8;

    /// A slow start, which ends when it allows `slots`.
    pub fn slow_start(slots: u32) -> Self {
        let ramp = Self { word: Word::new(0) };
        let slots = slots.clamp(1, Packed::SLOTS_MAX);
        ramp.word
            .set(|_| (Packed::new(Slope::Quarter, slots).0, ()));
        ramp
    }

    /// A ramp that has ended, for a start with nothing to find out.
    pub fn ended() -> Self {
        Self {
            word: Word::new(Packed::ENDED.0),
        }
    }

    /// Begins again after a pause, for a level of `level` in flight; as slowly as at the start when that is `u32::MAX`, since none
    /// is known then.
    pub fn restart(&self, level: u32) {
        let slope = match level {
            u32::MAX => Slope::Quarter,
            _ => Slope::Double,
        };
        let slots = level.clamp(1, Packed::SLOTS_MAX);
        self.word.set(|_| (Packed::new(slope, slots).0, ()));
    }

    /// Counts `requests` more as accepted. A ramp that has ended is not written to.
    #[inline]
    pub fn accepted(&self, requests: u32) {
        let _ended = self.word.change(|word| {
            let after = Packed(word).accepted(requests).ok_or(())?;
            Ok::<(u64, ()), ()>((after.0, ()))
        });
    }

    /// The most that may be unanswered now.
    #[inline]
    pub fn allows(&self) -> u32 {
        Packed(self.word.load()).allows()
    }

    /// Whether it has ended, so that it allows anything.
    pub fn has_ended(&self) -> bool {
        self.allows() == u32::MAX
    }

    /// How many exchanges lost to another thread.
    #[cfg(feature = "contention")]
    pub fn contention(&self) -> u64 {
        self.word.lost()
    }
}

/// What is known of the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slope {
    /// Nothing.
    Quarter,
    /// It was gone before.
    Double,
}

/// 2 bits of slope (3: ended), 30 of where it ends, 32 of accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Packed(u64);

impl Packed {
    const SLOTS_MAX: u32 = (1 << 28) - 1;
    const ENDED: Self = Self(0b11);

    const fn new(slope: Slope, slots: u32) -> Self {
        Self((slots as u64) << 2 | slope as u64)
    }

    /// The transition: so many more, or the end.
    const fn accepted(self, requests: u32) -> Option<Self> {
        if self.0 == Self::ENDED.0 {
            return None;
        }
        let accepted = ((self.0 >> 32) as u32).saturating_add(requests);
        let next = Self(self.0 & u32::MAX as u64 | (accepted as u64) << 32);
        if next.share() >= next.slots() {
            Some(Self::ENDED)
        } else {
            Some(next)
        }
    }

    const fn allows(self) -> u32 {
        if self.0 == Self::ENDED.0 {
            return u32::MAX;
        }
        let share = self.share();
        if share > Ramp::LEAST {
            share
        } else {
            Ramp::LEAST
        }
    }

    const fn share(self) -> u32 {
        let accepted = (self.0 >> 32) as u32;
        match self.0 & 0b11 {
            0 => accepted / 4,
            _ => accepted,
        }
    }

    const fn slots(self) -> u32 {
        (self.0 as u32) >> 2
    }
}

#[cfg(all(test, not(tinkers_loom)))]
mod tests {
    use super::*;

    fn after(ramp: &Ramp, accepted: u32) -> u32 {
        (0..accepted).for_each(|_| ramp.accepted(1));
        ramp.allows()
    }

    #[test]
    fn requests_may_be_counted_as_accepted_together() {
        let (one_by_one, together) = (Ramp::slow_start(100), Ramp::slow_start(100));
        for ramp in [&one_by_one, &together] {
            ramp.restart(2000);
        }
        after(&one_by_one, 700);
        together.accepted(700);
        assert_eq!(together.allows(), one_by_one.allows());
        together.accepted(u32::MAX);
        assert!(together.has_ended());
        together.accepted(u32::MAX);
        assert!(together.has_ended());
    }

    #[test]
    fn a_slow_start_allows_a_quarter_of_what_was_accepted() {
        let ramp = Ramp::slow_start(100);
        assert_eq!(ramp.allows(), 8);
        assert_eq!(after(&ramp, 35), 8);
        assert_eq!(after(&ramp, 1), 9);
        assert_eq!(after(&ramp, 399 - 36), 99);
        assert!(!ramp.has_ended());
        assert_eq!(after(&ramp, 1), u32::MAX);
        assert_eq!(after(&ramp, 1), u32::MAX);
    }

    #[test]
    fn after_a_pause_it_doubles_up_to_the_level_that_is_known() {
        let ramp = Ramp::slow_start(100);
        ramp.restart(20);
        assert_eq!(ramp.allows(), 8);
        assert_eq!(after(&ramp, 9), 9);
        assert_eq!(after(&ramp, 10), 19);
        assert_eq!(after(&ramp, 1), u32::MAX);
        ramp.restart(20);
        assert_eq!(ramp.allows(), 8, "each pause begins it again");
    }

    #[test]
    fn after_a_pause_without_a_known_level_it_is_as_slow_as_at_the_start() {
        let ramp = Ramp::ended();
        ramp.restart(u32::MAX);
        assert_eq!(after(&ramp, 35), 8);
        assert_eq!(after(&ramp, 5), 10);
    }
}
