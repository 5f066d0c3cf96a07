//! How many requests may be under way: those being sent and those in flight, the limit, and whether anybody waits, in one word.

use crate::word::Word;

/// Counts the requests that are being submitted and those that are in flight, from submission to result.
///
/// Both counts change together, so what the server has accepted (in flight and not being submitted) can be read exactly. While the
/// waiters' bit is set nobody gets in but through [`ConcurrencyWindow::take_turn`], so that nobody is passed.
#[derive(Debug)]
pub struct ConcurrencyWindow {
    word: Word,
}

/// What a request takes of the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// A slot for the submission and a unit that lasts to the result.
    SlotAndFlight,
    /// A slot alone: it has its flight from an earlier attempt, or its lane counts none.
    Slot,
}

/// There is no room, or others wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// The window at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowView {
    /// From submission to result.
    pub in_flight: u32,
    /// Submitted and not answered.
    pub unanswered: u32,
    /// The most that may be in flight.
    pub limit: u32,
    /// Whether anybody waits.
    pub has_waiters: bool,
}

impl WindowView {
    /// What the server has accepted and not finished.
    pub const fn accepted(self) -> u32 {
        self.in_flight.saturating_sub(self.unanswered)
    }
}

impl ConcurrencyWindow {
    /// The largest number that the counts and the limit can have.
    pub const MAX: u32 = (1 << 21) - 1;

    /// An empty window for at most `limit` in flight; at least 1, at most [`ConcurrencyWindow::MAX`].
    pub fn new(limit: u32) -> Self {
        Self {
            word: Word::new(Packed(0).with_limit(limit).0),
        }
    }

    /// Takes what is asked for, unless somebody waits, the window is full, or `slots` are being submitted already.
    #[inline]
    pub fn take(&self, take: Take, slots: u32) -> Result<(), Full> {
        self.word.change(|word| {
            let word = Packed(word);
            if word.has_waiters() {
                return Err(Full);
            }
            Ok((word.take(take, slots)?.0, ()))
        })
    }

    /// The same for whoever is at the head of those who wait.
    pub fn take_turn(&self, take: Take, slots: u32) -> Result<(), Full> {
        self.word
            .change(|word| Ok((Packed(word).take(take, slots)?.0, ())))
    }

    /// Takes what is asked for whatever the limits are.
    pub fn take_beyond(&self, take: Take) {
        self.update(|word| Packed(word.0 + Packed::of(take)));
    }

    /// Gives a slot back: the submission was answered or given up.
    #[inline]
    pub fn end_attempt(&self) -> WindowView {
        self.update(|word| Packed(word.0 - Packed::UNANSWERED))
    }

    /// Gives a flight back.
    #[inline]
    pub fn land(&self) -> WindowView {
        self.update(|word| Packed(word.0 - Packed::IN_FLIGHT))
    }

    /// Gives back everything that [`ConcurrencyWindow::take`] took.
    pub fn undo(&self, take: Take) -> WindowView {
        self.update(|word| Packed(word.0 - Packed::of(take)))
    }

    /// Says whether somebody waits. To be set by whoever starts to wait before it looks for room a last time: then either it
    /// sees what was given back, or whoever gave it back sees the bit.
    pub fn set_waiters(&self, waiting: bool) -> WindowView {
        self.update(|word| match waiting {
            true => Packed(word.0 | Packed::WAITERS),
            false => Packed(word.0 & !Packed::WAITERS),
        })
    }

    /// Another limit. What is in flight stays so, also above it.
    pub fn set_limit(&self, limit: u32) -> WindowView {
        self.update(|word| word.with_limit(limit))
    }

    /// What it looks like now.
    pub fn view(&self) -> WindowView {
        Packed(self.word.load()).view()
    }

    /// How many exchanges lost to another thread.
    #[cfg(feature = "contention")]
    pub fn contention(&self) -> u64 {
        self.word.lost()
    }

    fn update(&self, change: impl Fn(Packed) -> Packed) -> WindowView {
        self.word.set(|word| {
            let after = change(Packed(word));
            (after.0, after.view())
        })
    }
}

/// 1 bit of waiters, 21 of limit, 21 of unanswered, 21 of in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Packed(u64);

impl Packed {
    const MASK: u64 = ConcurrencyWindow::MAX as u64;
    const IN_FLIGHT: u64 = 1;
    const UNANSWERED: u64 = 1 << 21;
    const LIMIT_AT: u32 = 42;
    const WAITERS: u64 = 1 << 63;

    const fn of(take: Take) -> u64 {
        match take {
            Take::SlotAndFlight => Self::UNANSWERED + Self::IN_FLIGHT,
            Take::Slot => Self::UNANSWERED,
        }
    }

    /// The transition of a take.
    fn take(self, take: Take, slots: u32) -> Result<Self, Full> {
        let WindowView {
            in_flight,
            unanswered,
            limit,
            ..
        } = self.view();
        let has_slot = unanswered < slots.min(ConcurrencyWindow::MAX);
        let has_room = match take {
            Take::SlotAndFlight => in_flight < limit,
            Take::Slot => true,
        };
        if has_slot && has_room {
            Ok(Self(self.0 + Self::of(take)))
        } else {
            Err(Full)
        }
    }

    fn with_limit(self, limit: u32) -> Self {
        let limit = u64::from(limit.clamp(1, ConcurrencyWindow::MAX));
        Self(self.0 & !(Self::MASK << Self::LIMIT_AT) | limit << Self::LIMIT_AT)
    }

    const fn has_waiters(self) -> bool {
        self.0 & Self::WAITERS != 0
    }

    const fn view(self) -> WindowView {
        WindowView {
            in_flight: (self.0 & Self::MASK) as u32,
            unanswered: ((self.0 / Self::UNANSWERED) & Self::MASK) as u32,
            limit: ((self.0 >> Self::LIMIT_AT) & Self::MASK) as u32,
            has_waiters: self.has_waiters(),
        }
    }
}

#[cfg(all(test, not(tinkers_loom)))]
#[path = "window_tests.rs"]
mod tests;
