//! The concurrency window: the counts of unanswered and in-flight requests, the limit and the waiters flag, in one
//! word.

use crate::word::Word;

/// Counts the unanswered submissions and the requests in flight, from submission to result.
///
/// Both counts change together, so the number of requests that the server has accepted (in flight but not unanswered)
/// is exact. While the waiters flag is set, only [`ConcurrencyWindow::take_queued`] admits requests, so that no request
/// overtakes the waiters.
#[derive(Debug)]
pub struct ConcurrencyWindow {
    word: Word,
}

/// The units that a request takes from the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotRequest {
    /// A slot until the response to the submission, and an in-flight unit until the result.
    SlotAndInFlight,
    /// A slot only: the request keeps the in-flight unit of an earlier attempt, or its route class counts none.
    Slot,
}

/// The error for a request that finds the window full or other requests waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// A snapshot of the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowView {
    /// Requests between submission and result.
    pub in_flight: u32,
    /// Submissions without a response.
    pub unanswered: u32,
    /// The maximum number of requests in flight.
    pub limit: u32,
    /// Whether the waiters flag is set.
    pub has_waiters: bool,
}

impl WindowView {
    /// Returns the number of requests that the server has accepted but not finished.
    pub const fn accepted(self) -> u32 {
        self.in_flight.saturating_sub(self.unanswered)
    }
}

impl ConcurrencyWindow {
    /// The maximum of the counts and of the limit.
    pub const MAX: u32 = (1 << 21) - 1;

    /// Creates an empty window with a limit, clamped to 1 ..= [`ConcurrencyWindow::MAX`].
    pub fn new(limit: u32) -> Self {
        Self {
            word: Word::new(Packed(0).with_limit(limit).0),
        }
    }

    /// Takes the requested units, unless requests are waiting, the window is full, or `slots` submissions are
    /// unanswered.
    #[inline]
    pub fn take(&self, take: SlotRequest, slots: u32) -> Result<(), Full> {
        self.word.change(|word| {
            let word = Packed(word);
            if word.has_waiters() {
                return Err(Full);
            }
            Ok((word.take(take, slots)?.0, ()))
        })
    }

    /// Takes the requested units for the head of the queue, regardless of the waiters flag.
    pub fn take_queued(&self, take: SlotRequest, slots: u32) -> Result<(), Full> {
        self.word
            .change(|word| Ok((Packed(word).take(take, slots)?.0, ())))
    }

    /// Takes the requested units regardless of all limits.
    pub fn take_unchecked(&self, take: SlotRequest) {
        self.update(|word| Packed(word.0 + Packed::of(take)));
    }

    /// Releases a slot after the end of an attempt.
    #[inline]
    pub fn release_slot(&self) -> WindowView {
        self.update(|word| Packed(word.0 - Packed::UNANSWERED))
    }

    /// Releases an in-flight unit.
    #[inline]
    pub fn release(&self) -> WindowView {
        self.update(|word| Packed(word.0 - Packed::IN_FLIGHT))
    }

    /// Releases everything that [`ConcurrencyWindow::take`] took.
    pub fn undo(&self, take: SlotRequest) -> WindowView {
        self.update(|word| Packed(word.0 - Packed::of(take)))
    }

    /// Sets the waiters flag. A waiter must set it before its last attempt to take units: then either the attempt sees
    /// the released units, or the release sees the flag.
    pub fn set_waiters(&self, waiting: bool) -> WindowView {
        self.update(|word| match waiting {
            true => Packed(word.0 | Packed::WAITERS),
            false => Packed(word.0 & !Packed::WAITERS),
        })
    }

    /// Changes the limit. Requests in flight above the new limit stay in flight.
    pub fn set_limit(&self, limit: u32) -> WindowView {
        self.update(|word| word.with_limit(limit))
    }

    /// Returns a snapshot.
    pub fn view(&self) -> WindowView {
        Packed(self.word.load()).view()
    }

    /// Returns the number of exchanges lost to another thread.
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

/// The state in one word: 1 bit of waiters flag, 21 of limit, 21 of unanswered, 21 of in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Packed(u64);

impl Packed {
    const MASK: u64 = ConcurrencyWindow::MAX as u64;
    const IN_FLIGHT: u64 = 1;
    const UNANSWERED: u64 = 1 << 21;
    const LIMIT_AT: u32 = 42;
    const WAITERS: u64 = 1 << 63;

    const fn of(take: SlotRequest) -> u64 {
        match take {
            SlotRequest::SlotAndInFlight => Self::UNANSWERED + Self::IN_FLIGHT,
            SlotRequest::Slot => Self::UNANSWERED,
        }
    }

    /// Returns the state after taking the requested units.
    fn take(self, take: SlotRequest, slots: u32) -> Result<Self, Full> {
        let WindowView {
            in_flight,
            unanswered,
            limit,
            ..
        } = self.view();
        let has_slot = unanswered < slots.min(ConcurrencyWindow::MAX);
        let has_room = match take {
            SlotRequest::SlotAndInFlight => in_flight < limit,
            SlotRequest::Slot => true,
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
