//! The ramp: a limit on submissions without a response that rises with the number of accepted requests, at the start and after a pause.

use crate::word::Word;

/// A limit on the number of submissions without a response. The limit rises gradually with the number of accepted requests, since the
/// server may refuse all submissions that have no response yet.
///
/// At the start, when the server's limit is unknown, at most a quarter of the number of accepted requests may be without a response (slow
/// start). After a pause that a refusal (429 response) caused, the limit is the number of requests accepted since then, until it reaches
/// the known in-flight limit. The limit is never below [`Ramp::MIN_UNANSWERED`].
#[derive(Debug)]
pub struct Ramp {
    word: Word,
}

impl Ramp {
    /// The number of submissions that may always be without a response, even before any request was accepted.
    pub const MIN_UNANSWERED: u32 = 8;

    /// Creates a limit in slow start: it rises with the number of accepted requests. The slow start ends when the limit reaches `slots`
    /// submissions without a response.
    pub fn slow_start(slots: u32) -> Self {
        let ramp = Self { word: Word::new(0) };
        let slots = slots.clamp(1, Packed::SLOTS_MAX);
        ramp.word
            .set(|_| (Packed::new(RampKind::SlowStart, slots).0, ()));
        ramp
    }

    /// Creates a ramp whose gradual increase has already ended, so that it limits nothing.
    pub fn ended() -> Self {
        Self {
            word: Word::new(Packed::ENDED.0),
        }
    }

    /// Restarts the gradual increase of the limit, after a rate-limit pause. It ends when the limit reaches `level` submissions without a
    /// response. `u32::MAX` means that no in-flight limit is known, and restarts the slow start.
    pub fn restart(&self, level: u32) {
        let kind = match level {
            u32::MAX => RampKind::SlowStart,
            _ => RampKind::Recovery,
        };
        let slots = level.clamp(1, Packed::SLOTS_MAX);
        self.word.set(|_| (Packed::new(kind, slots).0, ()));
    }

    /// Records that the server accepted `requests` requests, which raises the limit on submissions without a response. Writes nothing after
    /// the end of the gradual increase.
    #[inline]
    pub fn accepted(&self, requests: u32) {
        let _ended = self.word.change(|word| {
            let after = Packed(word).accepted(requests).ok_or(())?;
            Ok::<(u64, ()), ()>((after.0, ()))
        });
    }

    /// Returns the current maximum number of submissions without a response. After the end of the gradual increase this is `u32::MAX`,
    /// which means no limit.
    #[inline]
    pub fn allows(&self) -> u32 {
        Packed(self.word.load()).allows()
    }

    /// Returns whether the gradual increase of the limit has ended, so that it limits nothing any more.
    pub fn has_ended(&self) -> bool {
        self.allows() == u32::MAX
    }

    /// Returns how many compare-and-swap attempts have failed so far because another thread changed the value first.
    #[cfg(feature = "contention")]
    pub fn contention(&self) -> u64 {
        self.word.lost()
    }
}

/// The kind of a gradual increase, which determines how the limit on submissions without a response follows from the number of accepted
/// requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RampKind {
    /// The increase at the start: the limit on submissions without a response is a quarter of the number of accepted requests.
    SlowStart,
    /// The increase after a rate-limit pause: the limit on submissions without a response is the number of requests accepted since.
    Recovery,
}

/// The state of a gradual increase in one word: 2 bits of kind (3 means ended), 30 bits for the limit at which the increase ends, and 32
/// bits for the number of accepted requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Packed(u64);

impl Packed {
    const SLOTS_MAX: u32 = (1 << 28) - 1;
    const ENDED: Self = Self(0b11);

    const fn new(kind: RampKind, slots: u32) -> Self {
        Self((slots as u64) << 2 | kind as u64)
    }

    /// Returns the state after the server has accepted `requests` more requests, or `None` if the gradual increase has ended already.
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
        if share > Ramp::MIN_UNANSWERED {
            share
        } else {
            Ramp::MIN_UNANSWERED
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
    fn gradual_increase_counts_a_batch_like_single_accepted_requests() {
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
    fn largest_slow_start_ends_at_two_to_the_28th_less_one() {
        let ramp = Ramp::slow_start(u32::MAX);
        ramp.accepted(4 * ((1 << 28) - 1) - 1);
        assert!(!ramp.has_ended());
        ramp.accepted(1);
        assert!(ramp.has_ended());
    }

    #[test]
    fn slow_start_allows_a_quarter_of_the_accepted_requests() {
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
    fn limit_after_a_pause_is_the_number_of_requests_accepted_since() {
        let ramp = Ramp::slow_start(100);
        ramp.restart(20);
        assert_eq!(ramp.allows(), 8);
        assert_eq!(after(&ramp, 9), 9);
        assert_eq!(after(&ramp, 10), 19);
        assert_eq!(after(&ramp, 1), u32::MAX);
        ramp.restart(20);
        assert_eq!(ramp.allows(), 8, "each pause restarts the ramp");
    }

    #[test]
    fn restart_without_a_known_limit_begins_a_slow_start() {
        let ramp = Ramp::ended();
        ramp.restart(u32::MAX);
        assert_eq!(after(&ramp, 35), 8);
        assert_eq!(after(&ramp, 5), 10);
    }
}
