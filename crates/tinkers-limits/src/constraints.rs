//! All limits of a route class, decided together.

use std::time::Duration;

use crate::adaptive_limit::{AdaptiveLimit, LimitChange, RefusalContext};
use crate::bytes::ByteBudget;
use crate::gate::{BackoffGate, Epoch, GateClosed, GatePass, Probe};
use crate::gcra::{Gcra, Rate, RateRefusal};
use crate::ramp::Ramp;
use crate::window::{ConcurrencyWindow, SlotRequest, WindowView};
use crate::word::Word;

/// The window, ramp, byte budget, rate limit and gate of one route class. Either all of them admit a request or none is
/// charged.
#[derive(Debug)]
pub struct Constraints {
    gate: BackoffGate,
    window: ConcurrencyWindow,
    bytes: ByteBudget,
    ramp: Ramp,
    rate: Gcra,
    slots: Word,
}

/// The configured limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The maximum number of unanswered submissions.
    pub slots: u32,
    /// The maximum number of bytes in unanswered submissions.
    pub bytes: u64,
    /// The maximum number of requests in flight.
    pub flights: u32,
    /// The rate limit.
    pub rate: Option<Rate>,
    /// The initial limit on unanswered requests.
    pub start: InitialLimit,
}

/// The limit on unanswered requests at the start, when the capacity of the server is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitialLimit {
    /// A quarter of the accepted requests: see [`Ramp`].
    Slow,
    /// The number of slots.
    Open,
}

/// The units and bytes that an attempt takes. The limiter decides whether the request needs an in-flight unit in
/// addition to its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    /// The units of the window.
    pub take: SlotRequest,
    /// The bytes of the body.
    pub bytes: u64,
}

/// The units taken for an attempt, to be passed to [`Constraints::settle`] exactly once.
///
/// Packed into two words, because every permit carries one: the bytes; and the time of a probe (46 bits), whether it
/// took an in-flight unit (1), whether it is a probe (1) and the epoch (16). The default has taken a slot and no bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ticket {
    bytes: u64,
    bits: u64,
}

/// The reason why a request is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocked {
    /// A resource must be released first.
    Full,
    /// The window is full, or other requests are waiting.
    WindowFull,
    /// The gate or the rate limit admits the request at this time.
    NotUntil(Duration),
}

/// The outcome of the attempt of a ticket. It contains deadlines instead of the server's hints, because the caller
/// applies jitter and bounds to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TicketOutcome {
    /// The server accepted the request.
    Accepted,
    /// The server refused the request; no request is admitted before this time.
    Refused {
        /// Measured from the clock's origin.
        until: Duration,
    },
    /// A response that is neither an acceptance nor a refusal.
    Answered,
    /// No response; no further probe is admitted before this time.
    Unanswered {
        /// Measured from the clock's origin.
        until: Duration,
    },
    /// The attempt was dropped.
    Dropped,
}

/// The effects of the end of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettleEffects {
    /// The window afterwards.
    pub view: WindowView,
    /// The effect of a refusal on the gate.
    pub closed: Option<GateClosed>,
    /// Whether the attempt reopened the gate.
    pub reopened: bool,
    /// Whether the next probe may enter at once.
    pub probe_handed_over: bool,
}

impl Constraints {
    /// Creates limits with an open gate and no requests.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            gate: BackoffGate::new(),
            window: ConcurrencyWindow::new(bounds.flights),
            bytes: ByteBudget::new(bounds.bytes),
            ramp: match bounds.start {
                InitialLimit::Slow => Ramp::slow_start(bounds.slots),
                InitialLimit::Open => Ramp::ended(),
            },
            rate: Gcra::new(bounds.rate),
            slots: Word::new(bounds.slots.max(1).into()),
        }
    }

    /// Admits a request if no requests are waiting and the gate is open. `now` is called only if there is a rate limit.
    ///
    /// A request that the byte budget, rate limit or gate refuses has briefly held a unit of the window, and another
    /// request may have found the window full and started to wait meanwhile. So after a refusal the caller must check
    /// for waiters, as after any other release.
    #[inline]
    pub fn take(&self, charge: Charge, now: impl FnOnce() -> Duration) -> Result<Ticket, Blocked> {
        let slots = self.slots();
        self.window
            .take(charge.take, slots)
            .map_err(|_| Blocked::WindowFull)?;
        self.take_rest(charge, now, |gate| {
            gate.open().map(GatePass::Open).ok_or(Blocked::Full)
        })
    }

    /// Admits the head of the queue, as the probe if one is due.
    pub fn take_queued(
        &self,
        charge: Charge,
        now: Duration,
        patience: Duration,
    ) -> Result<Ticket, Blocked> {
        let slots = self.slots();
        self.window
            .take_queued(charge.take, slots)
            .map_err(|_| Blocked::WindowFull)?;
        self.take_rest(
            charge,
            || now,
            |gate| gate.enter(now, patience).map_err(Blocked::NotUntil),
        )
    }

    /// Admits a nested request at once and beyond the limits on slots, bytes and rate: it must not wait for resources
    /// that the outer request holds. `None` while the gate is closed.
    pub fn take_nested(&self) -> Option<Ticket> {
        let take = SlotRequest::Slot;
        self.window.take_unchecked(take);
        // Read the gate last, as for every other request.
        let pass = self.gate.enter_nested();
        if pass.is_none() {
            self.window.undo(take);
        }
        let charge = Charge { take, bytes: 0 };
        pass.map(|pass| Ticket::new(charge, pass))
    }

    /// Returns whether an admitted request may still be sent. Call it immediately before sending, since the request may
    /// have waited after its admission.
    #[inline]
    pub fn may_leave(&self, ticket: &Ticket) -> bool {
        self.gate.still_admits(ticket.pass())
    }

    /// Counts all unanswered requests as accepted in the ramp. Returns whether this raised its limit.
    ///
    /// For servers that hold accepted requests: there, a request without a refusal for some time has been accepted.
    pub fn presume_accepted(&self) -> bool {
        let allowed = self.ramp.allows();
        self.ramp.accepted(self.window.view().unanswered);
        self.ramp.allows() > allowed
    }

    /// Opens the gate that is being probed in `epoch`, with a ramp up to `level`; see [`BackoffGate::reopen`].
    pub fn reopen(&self, epoch: Epoch, level: u32) -> bool {
        // Restart the ramp first, so that every thread that sees the open gate sees the ramp.
        self.ramp.restart(level);
        self.gate.reopen(epoch)
    }

    /// Extends the closure of a refusal whose hint arrived after it was settled: see [`BackoffGate::close`].
    pub fn extend(&self, ticket: &Ticket, until: Duration) -> GateClosed {
        self.gate.close(until, ticket.epoch())
    }

    /// Charges bytes and rate and then reads the gate, whose state at that time decides. Releases everything if one of
    /// them refuses.
    #[inline]
    fn take_rest(
        &self,
        charge: Charge,
        now: impl FnOnce() -> Duration,
        enter: impl FnOnce(&BackoffGate) -> Result<GatePass, Blocked>,
    ) -> Result<Ticket, Blocked> {
        if self.bytes.take(charge.bytes).is_err() {
            self.window.undo(charge.take);
            return Err(Blocked::Full);
        }
        let is_rated = self.rate.is_limited();
        if is_rated && let Err(refusal) = self.rate.take(1, now()) {
            self.bytes.release(charge.bytes);
            self.window.undo(charge.take);
            return Err(match refusal {
                RateRefusal::NotUntil(at) => Blocked::NotUntil(at),
                RateRefusal::Never => Blocked::Full,
            });
        }
        match enter(&self.gate) {
            Ok(pass) => Ok(Ticket::new(charge, pass)),
            Err(blocked) => {
                if is_rated {
                    self.rate.undo(1);
                }
                self.bytes.release(charge.bytes);
                self.window.undo(charge.take);
                Err(blocked)
            }
        }
    }

    /// Ends an attempt and releases its units except the in-flight unit, which [`Constraints::release`] releases.
    ///
    /// The slot is released last: a request that takes it sees the changes of gate and ramp, and the returned window
    /// view shows whether requests are waiting for the slot, for bytes or for the ramp.
    pub fn settle(
        &self,
        ticket: Ticket,
        outcome: TicketOutcome,
        now: Duration,
        level: impl FnOnce() -> u32,
    ) -> SettleEffects {
        let (closed, reopened, probe_handed_over) = self.end(ticket, outcome, now, level);
        SettleEffects {
            view: self.window.release_slot(),
            closed,
            reopened,
            probe_handed_over,
        }
    }

    /// Does everything of [`Constraints::settle`] except releasing the slot. Returns the effects on the gate, as in
    /// [`SettleEffects`].
    fn end(
        &self,
        ticket: Ticket,
        outcome: TicketOutcome,
        now: Duration,
        level: impl FnOnce() -> u32,
    ) -> (Option<GateClosed>, bool, bool) {
        let (mut closed, mut reopened, mut probe_handed_over) = (None, false, false);
        let epoch = ticket.epoch();
        match (outcome, ticket.pass().probe()) {
            (TicketOutcome::Refused { until }, _) => closed = Some(self.gate.close(until, epoch)),
            (TicketOutcome::Accepted | TicketOutcome::Answered, Some(_)) => {
                reopened = self.reopen(epoch, level());
            }
            (TicketOutcome::Unanswered { until }, Some(probe)) => {
                self.gate.defer_probe(until, probe);
            }
            (TicketOutcome::Dropped, Some(probe)) => {
                probe_handed_over = self.gate.hand_over_probe(now, probe)
            }
            (_, None) => {}
        }
        if outcome == TicketOutcome::Accepted {
            self.ramp.accepted(1);
        }
        self.bytes.release(ticket.charge().bytes);
        (closed, reopened, probe_handed_over)
    }

    /// Records a settled attempt in `limit` and applies the resulting limit to the window.
    pub fn learn(
        &self,
        limit: &mut AdaptiveLimit,
        ticket: Ticket,
        settled: &SettleEffects,
        outcome: TicketOutcome,
        now: Duration,
    ) -> Option<LimitChange> {
        if settled.reopened {
            // The probe request itself is not one of the remaining requests.
            limit.on_reopened(settled.view.in_flight.saturating_sub(1));
        }
        let change = match (outcome, settled.closed) {
            (TicketOutcome::Refused { .. }, Some(closed)) => {
                // Its own in-flight unit has not been released yet.
                let own = u32::from(ticket.charge().take == SlotRequest::SlotAndInFlight);
                limit.on_refusal(RefusalContext {
                    now,
                    is_new_event: closed.is_new_event,
                    accepted: settled.view.accepted().saturating_sub(own),
                    closed_for: closed.until.saturating_sub(now),
                })
            }
            (TicketOutcome::Accepted, _) => {
                let is_straggler = ticket.epoch() != self.gate.epoch();
                limit.on_accepted(settled.view.accepted(), is_straggler)
            }
            _ => None,
        };
        if change.is_some() {
            self.window.set_limit(limit.limit());
        }
        change
    }

    /// Starts a limit probe if one is due. Call it when a request waits for the full window.
    pub fn probe_limit(&self, limit: &mut AdaptiveLimit, now: Duration) -> Option<LimitChange> {
        if self.gate.open().is_some() {
            limit.on_gate_seen_open(self.window.view().in_flight);
        }
        let change = limit.on_window_full(now)?;
        self.window.set_limit(limit.limit());
        Some(change)
    }

    /// Releases an in-flight unit.
    #[inline]
    pub fn release(&self) -> WindowView {
        self.window.release()
    }

    /// Releases an unused ticket with its in-flight unit. The rate is not returned, since its time has passed.
    pub fn undo(&self, ticket: Ticket, now: Duration) {
        self.end(ticket, TicketOutcome::Dropped, now, || u32::MAX);
        // Release both units in one step, so that a request that was never sent does not count as accepted.
        self.window.undo(ticket.charge().take);
    }

    /// Changes all bounds except `flights`, which [`AdaptiveLimit::set_ceiling`] changes.
    pub fn resize(&self, bounds: Bounds) {
        self.rate.set(bounds.rate);
        self.bytes.resize(bounds.bytes);
        self.slots.set(|_| (bounds.slots.max(1).into(), ()));
    }

    /// Returns the gate.
    pub fn gate(&self) -> &BackoffGate {
        &self.gate
    }

    /// Returns the window.
    pub fn window(&self) -> &ConcurrencyWindow {
        &self.window
    }

    /// Returns the byte budget.
    pub fn bytes(&self) -> &ByteBudget {
        &self.bytes
    }

    /// Returns the number of exchanges that all parts lost to other threads.
    #[cfg(feature = "contention")]
    pub fn contention(&self) -> u64 {
        self.gate.contention()
            + self.window.contention()
            + self.bytes.contention()
            + self.ramp.contention()
            + self.rate.contention()
    }

    /// Returns the current maximum number of unanswered requests.
    #[inline]
    pub fn slots(&self) -> u32 {
        self.ramp.allows().min(self.most_slots())
    }

    /// Returns the maximum number of unanswered requests after the end of the ramp.
    #[inline]
    pub fn most_slots(&self) -> u32 {
        self.slots.load() as u32
    }

    /// Returns whether the ramp has ended.
    pub fn has_no_ramp(&self) -> bool {
        self.ramp.has_ended()
    }
}

impl Ticket {
    const PROBE: u64 = 1 << 16;
    const IN_FLIGHT: u64 = 1 << 17;
    const SINCE_AT: u32 = 18;

    const fn new(charge: Charge, pass: GatePass) -> Self {
        let Epoch(epoch) = pass.epoch();
        let take = match charge.take {
            SlotRequest::SlotAndInFlight => Self::IN_FLIGHT,
            SlotRequest::Slot => 0,
        };
        let probe = match pass.probe() {
            Some(Probe { since, .. }) => Self::PROBE | since << Self::SINCE_AT,
            None => 0,
        };
        Self {
            bytes: charge.bytes,
            bits: epoch as u64 | take | probe,
        }
    }

    const fn pass(&self) -> GatePass {
        let epoch = self.epoch();
        if !self.is_probe() {
            return GatePass::Open(epoch);
        }
        let since = self.bits >> Self::SINCE_AT;
        GatePass::Probe(Probe { epoch, since })
    }

    /// Returns whether the attempt is the probe.
    pub const fn is_probe(&self) -> bool {
        self.bits & Self::PROBE != 0
    }

    /// Returns the epoch of its admission.
    pub const fn epoch(&self) -> Epoch {
        Epoch(self.bits as u16)
    }

    /// Returns the charge of the attempt.
    pub const fn charge(&self) -> Charge {
        let take = match self.bits & Self::IN_FLIGHT {
            0 => SlotRequest::Slot,
            _ => SlotRequest::SlotAndInFlight,
        };
        Charge {
            take,
            bytes: self.bytes,
        }
    }
}

#[cfg(all(test, not(tinkers_loom)))]
#[path = "constraints_tests.rs"]
mod tests;
