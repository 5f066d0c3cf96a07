//! All that a request must meet before it goes, decided together, and how its end is told to each part.

use std::time::Duration;

use crate::bytes::ByteBudget;
use crate::gate::{BackoffGate, Closed, Entry, Epoch, Probe};
use crate::gcra::{Gcra, Rate, Refusal};
use crate::growth::{AdaptiveLimit, Change, RefusalContext};
use crate::ramp::Ramp;
use crate::window::{ConcurrencyWindow, Take, WindowView};
use crate::word::Word;

/// Window, bytes, rate and gate of one class of requests. Either all of them let a request through or none is charged.
#[derive(Debug)]
pub struct Constraints {
    gate: BackoffGate,
    window: ConcurrencyWindow,
    bytes: ByteBudget,
    ramp: Ramp,
    rate: Gcra,
    slots: Word,
}

/// What they allow at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Requests being submitted at once.
    pub slots: u32,
    /// Bytes being submitted at once.
    pub bytes: u64,
    /// Requests in flight at once.
    pub flights: u32,
    /// Requests for a time.
    pub rate: Option<Rate>,
    /// How it begins.
    pub start: Start,
}

/// How many requests may be unanswered at the start, when nothing is known of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// A quarter of those that were accepted: see [`Ramp`].
    Slow,
    /// As many as there are slots.
    Open,
}

/// What a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Of the window.
    pub take: Take,
    /// Of the bytes.
    pub bytes: u64,
}

/// What was taken for an attempt, to be given to [`Constraints::settle`] exactly once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    demand: Cost,
    entry: Entry,
}

/// Why a request may not go now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocked {
    /// Something must be given back first.
    Full,
    /// The window is at its limit, or others wait.
    WindowFull,
    /// The gate or the rate say when.
    NotUntil(Duration),
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The server took it.
    Accepted,
    /// The server refused it for its rate; nothing may go before this.
    Refused {
        /// Measured from the clock's origin.
        until: Duration,
    },
    /// The server answered, and said nothing about the rate.
    Answered,
    /// There was no answer; a probe is not followed by another one before this.
    Unanswered {
        /// Measured from the clock's origin.
        until: Duration,
    },
    /// It was given up before it was over.
    Dropped,
}

/// What came of the end of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// The window afterwards.
    pub view: WindowView,
    /// What a refusal did to the gate.
    pub closed: Option<Closed>,
    /// Whether it opened the gate.
    pub reopened: bool,
    /// Whether the next probe may go now.
    pub passed_on: bool,
}

impl Constraints {
    /// Nothing is under way, the gate is open, and the start is slow.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            gate: BackoffGate::new(),
            window: ConcurrencyWindow::new(bounds.flights),
            bytes: ByteBudget::new(bounds.bytes),
            ramp: match bounds.start {
                Start::Slow => Ramp::slow_start(bounds.slots),
                Start::Open => Ramp::ended(),
            },
            rate: Gcra::new(bounds.rate),
            slots: Word::new(bounds.slots.max(1).into()),
        }
    }

    /// Lets a request through that nobody waits before, when the gate is open. `now` is asked for only where there is a rate.
    ///
    /// One that was refused by bytes, rate or gate had the window for a moment. Somebody may have found it full by that and begun
    /// to wait: so whoever is refused looks whether the window has waiters, as after any other give-back.
    #[inline]
    pub fn take(&self, demand: Cost, now: impl FnOnce() -> Duration) -> Result<Ticket, Blocked> {
        let slots = self.slots();
        self.window
            .take(demand.take, slots)
            .map_err(|_| Blocked::WindowFull)?;
        self.take_rest(demand, now, |gate| {
            gate.open().map(Entry::Open).ok_or(Blocked::Full)
        })
    }

    /// Lets the head of those who wait through, as the probe where one is due.
    pub fn take_turn(
        &self,
        demand: Cost,
        now: Duration,
        patience: Duration,
    ) -> Result<Ticket, Blocked> {
        let slots = self.slots();
        self.window
            .take_turn(demand.take, slots)
            .map_err(|_| Blocked::WindowFull)?;
        self.take_rest(
            demand,
            || now,
            |gate| gate.enter(now, patience).map_err(Blocked::NotUntil),
        )
    }

    /// Lets a request through that is made by one under way, without waiting and beyond slots, bytes and rate: it could wait for
    /// room that the one under way holds. `None` while the gate is closed.
    pub fn take_nested(&self) -> Option<Ticket> {
        let take = Take::Slot;
        self.window.take_beyond(take);
        // The gate last, as for every other request.
        let entry = self.gate.enter_nested();
        if entry.is_none() {
            self.window.undo(take);
        }
        let demand = Cost { take, bytes: 0 };
        entry.map(|entry| Ticket { demand, entry })
    }

    /// Whether what was let through may still leave: to be asked immediately before it does, since it may have waited meanwhile.
    #[inline]
    pub fn may_leave(&self, ticket: &Ticket) -> bool {
        self.gate.admits_still(ticket.entry)
    }

    /// Counts all that is unanswered as accepted in the ramp. Says whether more is allowed by it.
    ///
    /// For servers that hold what they accept: there a request that was not refused for a while has been accepted.
    pub fn presume_accepted(&self) -> bool {
        let allowed = self.ramp.allows();
        self.ramp.accepted(self.window.view().unanswered);
        self.ramp.allows() > allowed
    }

    /// Opens the gate that is being probed in `epoch`, with a ramp up to `level`; see [`BackoffGate::reopen`].
    pub fn reopen(&self, epoch: Epoch, level: u32) -> bool {
        // The ramp first: whoever sees the open gate must see it.
        self.ramp.restart(level);
        self.gate.reopen(epoch)
    }

    /// Closes the gate for longer, for a refusal that was settled without its hint: see [`BackoffGate::close`].
    pub fn extend(&self, ticket: &Ticket, until: Duration) -> Closed {
        self.gate.close(until, ticket.entry.epoch())
    }

    /// Bytes, rate, and the gate last: what it says then is what holds when the request leaves. Gives all back where one
    /// refuses.
    #[inline]
    fn take_rest(
        &self,
        demand: Cost,
        now: impl FnOnce() -> Duration,
        enter: impl FnOnce(&BackoffGate) -> Result<Entry, Blocked>,
    ) -> Result<Ticket, Blocked> {
        if self.bytes.take(demand.bytes).is_err() {
            self.window.undo(demand.take);
            return Err(Blocked::Full);
        }
        let is_rated = self.rate.is_limited();
        if is_rated && let Err(refusal) = self.rate.take(1, now()) {
            self.bytes.give_back(demand.bytes);
            self.window.undo(demand.take);
            return Err(match refusal {
                Refusal::NotUntil(at) => Blocked::NotUntil(at),
                Refusal::Never => Blocked::Full,
            });
        }
        match enter(&self.gate) {
            Ok(entry) => Ok(Ticket { demand, entry }),
            Err(blocked) => {
                if is_rated {
                    self.rate.undo(1);
                }
                self.bytes.give_back(demand.bytes);
                self.window.undo(demand.take);
                Err(blocked)
            }
        }
    }

    /// Ends an attempt. What it took comes back last, so that a request that is let through by it finds the gate and the ramp as they
    /// are now, and the slot after the bytes, so that its word says whether anybody waits for either. The flight, where there is one, is
    /// given back by itself.
    pub fn settle(
        &self,
        ticket: Ticket,
        ending: Ending,
        now: Duration,
        level: impl FnOnce() -> u32,
    ) -> Settled {
        let (closed, reopened, passed_on) = self.end(ticket, ending, now, level);
        Settled {
            view: self.window.end_attempt(),
            closed,
            reopened,
            passed_on,
        }
    }

    /// All of [`Constraints::settle`] but the slot: what became of the gate, as in [`Settled`], and the bytes.
    fn end(
        &self,
        ticket: Ticket,
        ending: Ending,
        now: Duration,
        level: impl FnOnce() -> u32,
    ) -> (Option<Closed>, bool, bool) {
        let (mut closed, mut reopened, mut passed_on) = (None, false, false);
        let epoch = ticket.entry.epoch();
        match (ending, ticket.entry.probe()) {
            (Ending::Refused { until }, _) => closed = Some(self.gate.close(until, epoch)),
            (Ending::Accepted | Ending::Answered, Some(_)) => {
                reopened = self.reopen(epoch, level());
            }
            (Ending::Unanswered { until }, Some(probe)) => {
                self.gate.defer(until, probe);
            }
            (Ending::Dropped, Some(probe)) => passed_on = self.gate.pass_on(now, probe),
            (_, None) => {}
        }
        if ending == Ending::Accepted {
            self.ramp.accepted(1);
        }
        self.bytes.give_back(ticket.demand.bytes);
        (closed, reopened, passed_on)
    }

    /// Tells `growth` of a settled attempt, and sets the window to what it makes of it.
    pub fn learn(
        &self,
        growth: &mut AdaptiveLimit,
        ticket: Ticket,
        settled: &Settled,
        ending: Ending,
        now: Duration,
    ) -> Option<Change> {
        if settled.reopened {
            // Whoever was the probe is not one of those that were left.
            growth.reopened(settled.view.in_flight.saturating_sub(1));
        }
        let change = match (ending, settled.closed) {
            (Ending::Refused { .. }, Some(closed)) => {
                // Its own flight has not landed yet.
                let own = u32::from(ticket.demand.take == Take::SlotAndFlight);
                growth.refused(RefusalContext {
                    now,
                    first_of_its_event: closed.first_of_its_event,
                    accepted: settled.view.accepted().saturating_sub(own),
                    closed_for: closed.until.saturating_sub(now),
                })
            }
            (Ending::Accepted, _) => {
                let is_straggler = ticket.entry.epoch() != self.gate.epoch();
                growth.accepted(settled.view.accepted(), is_straggler)
            }
            _ => None,
        };
        if change.is_some() {
            self.window.set_limit(growth.limit());
        }
        change
    }

    /// Begins a trial beyond the learned level, when somebody waits for the window and one is due.
    pub fn try_more(&self, growth: &mut AdaptiveLimit, now: Duration) -> Option<Change> {
        if self.gate.open().is_some() {
            growth.found_open(self.window.view().in_flight);
        }
        let change = growth.is_wanted(now)?;
        self.window.set_limit(growth.limit());
        Some(change)
    }

    /// Gives a flight back.
    #[inline]
    pub fn land(&self) -> WindowView {
        self.window.land()
    }

    /// Gives back a ticket that was never used, its flight included; the rate alone is not given back, since its time has passed.
    pub fn undo(&self, ticket: Ticket, now: Duration) {
        self.end(ticket, Ending::Dropped, now, || u32::MAX);
        // Slot and flight in one step: a request that never left counts as accepted at no time.
        self.window.undo(ticket.demand.take);
    }

    /// Applies other bounds from now on, but for the flights, which belong to [`AdaptiveLimit::set_ceiling`].
    pub fn resize(&self, bounds: Bounds) {
        self.rate.set(bounds.rate);
        self.bytes.resize(bounds.bytes);
        self.slots.set(|_| (bounds.slots.max(1).into(), ()));
    }

    /// The gate.
    pub fn gate(&self) -> &BackoffGate {
        &self.gate
    }

    /// The window.
    pub fn window(&self) -> &ConcurrencyWindow {
        &self.window
    }

    /// The bytes.
    pub fn bytes(&self) -> &ByteBudget {
        &self.bytes
    }

    /// How many exchanges of all its parts lost to another thread.
    #[cfg(feature = "contention")]
    pub fn contention(&self) -> u64 {
        self.gate.contention()
            + self.window.contention()
            + self.bytes.contention()
            + self.ramp.contention()
            + self.rate.contention()
    }

    /// The most that may be unanswered now.
    #[inline]
    pub fn slots(&self) -> u32 {
        self.ramp.allows().min(self.most_slots())
    }

    /// The most that may be unanswered once there is no ramp.
    #[inline]
    pub fn most_slots(&self) -> u32 {
        self.slots.load() as u32
    }

    /// Whether no ramp bounds what may be unanswered.
    pub fn has_no_ramp(&self) -> bool {
        self.ramp.has_ended()
    }
}

impl Ticket {
    /// As two words, to be kept by whoever has no use for the rest.
    pub const fn to_words(self) -> [u64; 2] {
        let Epoch(epoch) = self.entry.epoch();
        let takes_flight = matches!(self.demand.take, Take::SlotAndFlight) as u64;
        let probe = match self.entry.probe() {
            Some(Probe { since, .. }) => 1 << 16 | since << 18,
            None => 0,
        };
        [self.demand.bytes, epoch as u64 | takes_flight << 17 | probe]
    }

    /// The ticket of which [`Ticket::to_words`] made these.
    pub const fn from_words([bytes, bits]: [u64; 2]) -> Self {
        let epoch = Epoch(bits as u16);
        let entry = match bits >> 16 & 1 {
            0 => Entry::Open(epoch),
            _ => Entry::Probe(Probe {
                epoch,
                since: bits >> 18,
            }),
        };
        let take = match bits >> 17 & 1 {
            0 => Take::Slot,
            _ => Take::SlotAndFlight,
        };
        Self {
            demand: Cost { take, bytes },
            entry,
        }
    }

    /// Whether it goes alone, to find out whether the server takes requests again.
    pub const fn is_probe(&self) -> bool {
        self.entry.is_probe()
    }

    /// The epoch in which it was admitted.
    pub const fn epoch(&self) -> Epoch {
        self.entry.epoch()
    }

    /// What it took.
    pub const fn demand(&self) -> Cost {
        self.demand
    }
}

#[cfg(all(test, not(tinkers_loom)))]
#[path = "constraints_tests.rs"]
mod tests;
