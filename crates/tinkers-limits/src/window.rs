//! The in-flight window. One word contains the number of submissions without a response, the number of requests in flight, the limit and
//! the waiters flag.

use crate::word::Word;

/// A limiter of two numbers: the submissions without a response, and the requests in flight from submission to result.
///
/// Both numbers change in one step, so the number of requests that the server has accepted (in flight, with a response) is exact. The
/// waiters flag says that requests wait in a queue. While it is set, only [`ConcurrencyWindow::take_queued`] admits requests, so that no
/// request overtakes the queue.
#[derive(Debug)]
pub struct ConcurrencyWindow {
    word: Word,
}

/// The units that a request takes from the window: a slot, and for some requests an in-flight unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotRequest {
    /// A slot until the response to the submission arrives, and an in-flight unit until the result is there.
    SlotAndInFlight,
    /// Only a slot, until the response arrives. The request keeps the in-flight unit of an earlier attempt, or its route class (kind of
    /// request) has no in-flight limit.
    Slot,
}

/// The error of a request that is not admitted because a limit is reached, or because other requests are already waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// The numbers of requests in a [`ConcurrencyWindow`] at one instant, its limit, and whether requests wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowView {
    /// The number of requests in flight, from submission to result.
    pub in_flight: u32,
    /// The number of submissions without a response.
    pub unanswered: u32,
    /// The maximum number of requests in flight.
    pub limit: u32,
    /// Whether requests wait in a queue until they may be sent.
    pub has_waiters: bool,
}

impl WindowView {
    /// Returns the number of requests that the server has accepted and not finished: those in flight that have a response to their
    /// submission.
    pub const fn accepted(self) -> u32 {
        self.in_flight.saturating_sub(self.unanswered)
    }
}

impl ConcurrencyWindow {
    /// The largest possible in-flight limit, number of requests in flight, and number of submissions without a response. Each has 21 bits.
    pub const MAX: u32 = (1 << 21) - 1;

    /// Creates a window without requests, whose limit on requests in flight is `limit`, clamped to 1 ..= [`ConcurrencyWindow::MAX`].
    pub fn new(limit: u32) -> Self {
        Self {
            word: Word::new(Packed(0).with_limit(limit).0),
        }
    }

    /// Takes the requested units if there is room. `slots` is the maximum number of submissions without a response.
    ///
    /// # Errors
    /// `Full` if other requests are waiting, the in-flight limit is reached, or `slots` submissions are without a response.
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

    /// Takes the requested units for the request at the head of the queue. Unlike [`ConcurrencyWindow::take`], does not fail because
    /// requests are waiting.
    pub fn take_queued(&self, take: SlotRequest, slots: u32) -> Result<(), Full> {
        self.word
            .change(|word| Ok((Packed(word).take(take, slots)?.0, ())))
    }

    /// Takes the requested units even if this exceeds the limits or other requests are waiting.
    pub fn take_unchecked(&self, take: SlotRequest) {
        self.update(|word| Packed(word.0 + Packed::of(take)));
    }

    /// Releases the slot of an attempt that got its response or failed. Returns the resulting state of the window.
    #[inline]
    pub fn release_slot(&self) -> WindowView {
        self.update(|word| Packed(word.0 - Packed::UNANSWERED))
    }

    /// Releases the in-flight unit of a request that has ended. Returns the resulting state of the window.
    #[inline]
    pub fn release(&self) -> WindowView {
        self.update(|word| Packed(word.0 - Packed::IN_FLIGHT))
    }

    /// Releases all units that [`ConcurrencyWindow::take`] took for a request that was not sent, in one step. Returns the resulting state
    /// of the window.
    pub fn undo(&self, take: SlotRequest) -> WindowView {
        self.update(|word| Packed(word.0 - Packed::of(take)))
    }

    /// Sets or clears the waiters flag, which says that requests wait. A request that waits must set the flag before its last attempt to
    /// take units. Then no release is missed: either that attempt sees the released units, or the thread that releases them sees the flag
    /// and admits the waiting request.
    pub fn set_waiters(&self, waiting: bool) -> WindowView {
        self.update(|word| match waiting {
            true => Packed(word.0 | Packed::WAITERS),
            false => Packed(word.0 & !Packed::WAITERS),
        })
    }

    /// Changes the maximum number of requests in flight. Requests above the new limit stay in flight. Returns the resulting state of the
    /// window.
    pub fn set_limit(&self, limit: u32) -> WindowView {
        self.update(|word| word.with_limit(limit))
    }

    /// Returns the current numbers of requests, the limit, and whether requests wait.
    pub fn view(&self) -> WindowView {
        Packed(self.word.load()).view()
    }

    /// Returns how many compare-and-swap attempts have failed so far because another thread changed the value first.
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

/// The state of the window in one word: 1 bit of waiters flag, 21 bits of limit, 21 bits of submissions without a response, and 21 bits of
/// requests in flight.
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

    /// Returns the state after taking the requested units, or `Full` if a limit is reached.
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
