//! All limits of a route class. A request is admitted by all of them or by none.

use std::time::Duration;

use crate::adaptive_limit::{AdaptiveLimit, LimitChange, RefusalContext};
use crate::bytes::ByteBudget;
use crate::gate::{BackoffGate, Epoch, FirstRequest, GateClosed, GatePass};
use crate::gcra::{Gcra, Rate, RateRefusal};
use crate::ramp::Ramp;
use crate::window::{ConcurrencyWindow, SlotRequest, WindowView};
use crate::word::Word;

/// The limits of one route class: in-flight window, ramp (the limit that rises gradually after a gate closure), byte budget, rate limit and
/// gate. A request is admitted only if all of them have room, and otherwise none of them is charged.
#[derive(Debug)]
pub struct Constraints {
    gate: BackoffGate,
    window: ConcurrencyWindow,
    bytes: ByteBudget,
    ramp: Ramp,
    rate: Gcra,
    slots: Word,
}

/// The configured limits of a route class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The maximum number of slots: submissions that were sent and have no response yet.
    pub slots: u32,
    /// The maximum number of bytes in submissions without a response.
    pub bytes: u64,
    /// The maximum number of requests in flight, from submission to result.
    pub max_in_flight: u32,
    /// The rate limit. `None` is unlimited.
    pub rate: Option<Rate>,
    /// The limit on submissions without a response when the limits are created.
    pub start: InitialLimit,
}

/// The limit on submissions without a response when the limits are created. The capacity of the server is then unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitialLimit {
    /// Slow start: the limit is a quarter of the number of requests that the server has accepted so far. See [`Ramp`].
    Slow,
    /// The limit is the configured number of slots from the beginning, without slow start.
    Open,
}

/// The units and bytes that an attempt takes from the limits. The caller decides whether the attempt needs an in-flight unit in addition to
/// its slot; a retry that kept the unit of an earlier attempt does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    /// The units that the attempt takes from the in-flight window: a slot, with or without an in-flight unit.
    pub take: SlotRequest,
    /// The size of the body in bytes.
    pub bytes: u64,
}

/// The record of what an admitted attempt has taken from the limits. When the attempt ends, it must be passed to [`Constraints::settle`]
/// exactly once.
///
/// Packed into two words, since every permit carries one. The first word is the number of bytes. The second contains the admission time of
/// a first request (46 bits), whether the attempt took an in-flight unit (1), whether it is a first request after a gate closure (1), and
/// the gate epoch (16). The default ticket has taken a slot and no bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ticket {
    bytes: u64,
    bits: u64,
}

/// The reason why a request is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocked {
    /// The byte budget is used up, so that an earlier attempt must end first; or, for [`Constraints::take`], the gate is closed.
    Full,
    /// The window has no free slot or in-flight unit, or other requests are waiting.
    WindowFull,
    /// The gate or the rate limit refuses the request, and will admit it at this time at the earliest.
    NotUntil(Duration),
}

/// The outcome of an attempt. It contains times up to which the gate is closed instead of the server's retry delay, since the caller adds
/// jitter to that delay and limits it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TicketOutcome {
    /// The server accepted the request.
    Accepted,
    /// The server refused the request (429).
    Refused {
        /// The time before which no request is admitted, measured from the clock's origin.
        until: Duration,
    },
    /// The server sent a response that neither accepts nor refuses the request.
    Answered,
    /// The attempt got no response.
    Unanswered {
        /// If the attempt was a first request after a gate closure: the time before which no other request is admitted in its place,
        /// measured from the clock's origin.
        until: Duration,
    },
    /// The attempt was dropped before its outcome was known.
    Dropped,
}

/// The effects that the end of an attempt had on the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettleEffects {
    /// The state of the window after the end of the attempt.
    pub view: WindowView,
    /// The effect of a refusal on the gate. `None` if the attempt was not refused.
    pub closed: Option<GateClosed>,
    /// Whether the attempt was a first request after a gate closure whose response opened the gate.
    pub reopened: bool,
    /// Whether the attempt was a first request after a gate closure and was dropped, so that another first request may be sent at once.
    pub first_request_handed_over: bool,
}

impl Constraints {
    /// Creates limits with an open gate and no requests.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            gate: BackoffGate::new(),
            window: ConcurrencyWindow::new(bounds.max_in_flight),
            bytes: ByteBudget::new(bounds.bytes),
            ramp: match bounds.start {
                InitialLimit::Slow => Ramp::slow_start(bounds.slots),
                InitialLimit::Open => Ramp::ended(),
            },
            rate: Gcra::new(bounds.rate),
            slots: Word::new(bounds.slots.max(1).into()),
        }
    }

    /// Admits a request if no other requests are waiting and all limits have room. Calls `now` only if there is a rate limit.
    ///
    /// # Errors
    /// The reason why the request is not admitted. A request that the byte budget, the rate limit or the gate refuses has held a slot for a
    /// moment, so another request may have found the window full meanwhile and waits. The caller must therefore serve the waiting requests
    /// after an error, as after any release of a slot.
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

    /// Admits the request at the head of the queue of waiting requests. If the gate is closed and its deadline has passed, admits the
    /// request as the first request after the closure. A first request without a response within `patience` is replaced.
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

    /// Admits a request that is made during another request. It is admitted at once, even if the slots, bytes or rate are used up, because
    /// a wait for resources of the outer request would never end. Returns `None` while the backoff gate is closed after a refusal.
    pub fn take_nested(&self) -> Option<Ticket> {
        let take = SlotRequest::Slot;
        self.window.take_unchecked(take);
        // The gate is read last, as for every other request.
        let pass = self.gate.enter_nested();
        if pass.is_none() {
            self.window.undo(take);
        }
        let charge = Charge { take, bytes: 0 };
        pass.map(|pass| Ticket::new(charge, pass))
    }

    /// Returns whether an admitted request may still be sent: not if a refusal has closed the gate since the admission. Call it immediately
    /// before sending.
    #[inline]
    pub fn may_leave(&self, ticket: &Ticket) -> bool {
        self.gate.still_admits(ticket.pass())
    }

    /// Counts all requests without a response as accepted requests, which raises the limit of a gradual increase. Returns whether the limit
    /// rose.
    ///
    /// For servers that do not respond to an accepted request until it has a result: a request that such a server has not refused for some
    /// time was accepted.
    pub fn presume_accepted(&self) -> bool {
        let allowed = self.ramp.allows();
        self.ramp.accepted(self.window.view().unanswered);
        self.ramp.allows() > allowed
    }

    /// Opens the gate, after restarting the gradual increase up to `level`. The gate opens, and true is returned, only if it waits for a
    /// first request of the gate epoch `epoch`. See [`BackoffGate::reopen`].
    pub fn reopen(&self, epoch: Epoch, level: u32) -> bool {
        // The ramp restarts first, so that every thread that sees the open gate also sees the ramp.
        self.ramp.restart(level);
        self.gate.reopen(epoch)
    }

    /// Extends the closure of the gate until `until`, for a refused attempt that was settled before its retry delay was known. See
    /// [`BackoffGate::close`].
    pub fn extend(&self, ticket: &Ticket, until: Duration) -> GateClosed {
        self.gate.close(until, ticket.epoch())
    }

    /// Charges the byte budget and the rate limit, then reads the gate with `enter`. The request is admitted only if the gate is open then.
    /// If the byte budget, the rate limit or the gate refuses the request, all charges and the units of the window are released.
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

    /// Ends an attempt and releases what its ticket has taken, except the in-flight unit, which [`Constraints::release`] releases. `level`
    /// is called if the gate opens, and returns the limit at which the gradual increase ends.
    ///
    /// The slot is released last: when another request takes the slot, the state of the gate and of the gradual increase is already up to
    /// date. The returned state of the window shows whether requests are waiting; the caller must then serve them.
    pub fn settle(
        &self,
        ticket: Ticket,
        outcome: TicketOutcome,
        now: Duration,
        level: impl FnOnce() -> u32,
    ) -> SettleEffects {
        let (closed, reopened, first_request_handed_over) = self.end(ticket, outcome, now, level);
        SettleEffects {
            view: self.window.release_slot(),
            closed,
            reopened,
            first_request_handed_over,
        }
    }

    /// Does everything of [`Constraints::settle`] except releasing the slot. Returns the effects on the gate, in the order of the
    /// fields of [`SettleEffects`].
    fn end(
        &self,
        ticket: Ticket,
        outcome: TicketOutcome,
        now: Duration,
        level: impl FnOnce() -> u32,
    ) -> (Option<GateClosed>, bool, bool) {
        let (mut closed, mut reopened, mut first_request_handed_over) = (None, false, false);
        let epoch = ticket.epoch();
        match (outcome, ticket.pass().first_request()) {
            (TicketOutcome::Refused { until }, _) => closed = Some(self.gate.close(until, epoch)),
            (TicketOutcome::Accepted | TicketOutcome::Answered, Some(_)) => {
                reopened = self.reopen(epoch, level());
            }
            (TicketOutcome::Unanswered { until }, Some(first_request)) => {
                self.gate.defer_first_request(until, first_request);
            }
            (TicketOutcome::Dropped, Some(first_request)) => {
                first_request_handed_over = self.gate.hand_over_first_request(now, first_request)
            }
            (_, None) => {}
        }
        if outcome == TicketOutcome::Accepted {
            self.ramp.accepted(1);
        }
        self.bytes.release(ticket.charge().bytes);
        (closed, reopened, first_request_handed_over)
    }

    /// Reports an ended attempt to the adaptive limit, and applies the resulting limit to the window. If the limit has changed, returns the
    /// reason of the change.
    pub fn learn(
        &self,
        limit: &mut AdaptiveLimit,
        ticket: Ticket,
        settled: &SettleEffects,
        outcome: TicketOutcome,
        now: Duration,
    ) -> Option<LimitChange> {
        if settled.reopened {
            // The first request itself does not count as remaining from before the closure.
            limit.on_reopened(settled.view.in_flight.saturating_sub(1));
        }
        let change = match (outcome, settled.closed) {
            (TicketOutcome::Refused { .. }, Some(closed)) => {
                // The in-flight unit of this attempt has not been released yet.
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

    /// Starts a limit probe if one is due, and applies the raised limit of the probe to the window. Call it when a request waits because
    /// the window is full.
    pub fn probe_limit(&self, limit: &mut AdaptiveLimit, now: Duration) -> Option<LimitChange> {
        if self.gate.open().is_some() {
            limit.on_gate_seen_open(self.window.view().in_flight);
        }
        let change = limit.on_window_full(now)?;
        self.window.set_limit(limit.limit());
        Some(change)
    }

    /// Releases an in-flight unit. Returns the state of the window.
    #[inline]
    pub fn release(&self) -> WindowView {
        self.window.release()
    }

    /// Releases all units and bytes that an unused ticket has taken, including the in-flight unit.
    pub fn undo(&self, ticket: Ticket, now: Duration) {
        self.end(ticket, TicketOutcome::Dropped, now, || u32::MAX);
        // Both units are released in one step, so that a request that was never sent does not count as accepted.
        self.window.undo(ticket.charge().take);
    }

    /// Changes the rate limit, the byte budget and the number of slots. The in-flight limit stays: [`AdaptiveLimit::set_ceiling`] changes
    /// it.
    pub fn resize(&self, bounds: Bounds) {
        self.rate.set(bounds.rate);
        self.bytes.resize(bounds.bytes);
        self.slots.set(|_| (bounds.slots.max(1).into(), ()));
    }

    /// Returns the gate, which refusals close.
    pub fn gate(&self) -> &BackoffGate {
        &self.gate
    }

    /// Returns the window, which counts requests in flight.
    pub fn window(&self) -> &ConcurrencyWindow {
        &self.window
    }

    /// Returns the byte budget.
    pub fn bytes(&self) -> &ByteBudget {
        &self.bytes
    }

    /// Returns the number of compare-and-swap attempts, in all limits together, that failed because of another thread.
    #[cfg(feature = "contention")]
    pub fn contention(&self) -> u64 {
        self.gate.contention()
            + self.window.contention()
            + self.bytes.contention()
            + self.ramp.contention()
            + self.rate.contention()
    }

    /// Returns the current maximum number of submissions without a response: the configured slots, or fewer during the slow start or the
    /// gradual increase after a gate closure.
    #[inline]
    pub fn slots(&self) -> u32 {
        self.ramp.allows().min(self.most_slots())
    }

    /// Returns the configured maximum number of submissions without a response, which applies after the end of the gradual increase.
    #[inline]
    pub fn most_slots(&self) -> u32 {
        self.slots.load() as u32
    }

    /// Returns whether the slow start, or the gradual increase after a gate closure, has ended and limits nothing.
    pub fn has_no_ramp(&self) -> bool {
        self.ramp.has_ended()
    }
}

impl Ticket {
    const FIRST_REQUEST: u64 = 1 << 16;
    const IN_FLIGHT: u64 = 1 << 17;
    const SINCE_AT: u32 = 18;

    const fn new(charge: Charge, pass: GatePass) -> Self {
        let Epoch(epoch) = pass.epoch();
        let take = match charge.take {
            SlotRequest::SlotAndInFlight => Self::IN_FLIGHT,
            SlotRequest::Slot => 0,
        };
        let first_request = match pass.first_request() {
            Some(FirstRequest { since, .. }) => Self::FIRST_REQUEST | since << Self::SINCE_AT,
            None => 0,
        };
        Self {
            bytes: charge.bytes,
            bits: epoch as u64 | take | first_request,
        }
    }

    const fn pass(&self) -> GatePass {
        let epoch = self.epoch();
        if !self.is_first_request() {
            return GatePass::Open(epoch);
        }
        let since = self.bits >> Self::SINCE_AT;
        GatePass::First(FirstRequest { epoch, since })
    }

    /// Returns whether the attempt is the first request after a gate closure.
    pub const fn is_first_request(&self) -> bool {
        self.bits & Self::FIRST_REQUEST != 0
    }

    /// Returns the gate epoch in which the attempt was admitted.
    pub const fn epoch(&self) -> Epoch {
        Epoch(self.bits as u16)
    }

    /// Returns the units and bytes that the attempt has taken.
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
