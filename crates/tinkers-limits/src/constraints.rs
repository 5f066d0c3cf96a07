//! All limits of a route class. A request is admitted by all of them or by none.

use std::time::Duration;

use crate::adaptive_limit::{AdaptiveLimit, LimitChange, RefusalContext};
use crate::bytes::ByteBudget;
use crate::gate::{BackoffGate, Epoch, FirstRequest, GateClosed, GatePass};
use crate::gcra::{Gcra, Rate, RateRefusal};
use crate::ramp::Ramp;
use crate::window::{ConcurrencyWindow, SlotRequest, WindowView};
use crate::word::Word;

/// All limits of one route class (kind of request): the limit on requests in flight, the limit on submissions without a response (which
/// rises gradually after a pause), the byte budget, the rate limit, and the gate, which stops requests after a 429 response. A request is
/// admitted only if all of them allow it, and otherwise takes nothing from any of them.
#[derive(Debug)]
pub struct Constraints {
    gate: BackoffGate,
    window: ConcurrencyWindow,
    bytes: ByteBudget,
    ramp: Ramp,
    rate: Gcra,
    slots: Word,
}

/// The configured limits of a route class (kind of request).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The number of slots: the maximum number of submissions that were sent and have no response yet.
    pub slots: u32,
    /// The maximum number of bytes in submissions without a response.
    pub bytes: u64,
    /// The maximum number of requests in flight, from submission to result.
    pub max_in_flight: u32,
    /// The maximum rate of requests. `None` means that the rate is not limited.
    pub rate: Option<Rate>,
    /// The initial limit on submissions without a response: with or without a slow start.
    pub start: InitialLimit,
}

/// The initial limit on submissions without a response, while the capacity of the server is still unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitialLimit {
    /// Slow start: the limit on submissions without a response is a quarter of the number of requests that the server has accepted so far.
    /// See [`Ramp`].
    Slow,
    /// No slow start: the limit on submissions without a response is the configured number of slots from the beginning.
    Open,
}

/// The units and bytes that an attempt to send a request takes from the limits. The caller decides whether the attempt needs an in-flight
/// unit in addition to its slot; a retry that kept the unit of an earlier attempt does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    /// The units that the attempt takes: a slot (until the response), with or without an in-flight unit (until the result).
    pub take: SlotRequest,
    /// The size of the request body in bytes.
    pub bytes: u64,
}

/// The record of what an admitted attempt to send a request has taken from the limits. When the attempt ends, it must be passed to
/// [`Constraints::settle`] exactly once.
///
/// Packed into two words, since every permit carries one. The first word is the number of bytes. The second contains the admission time of
/// the first request after a rate-limit pause (46 bits), whether the attempt took an in-flight unit (1), whether it is such a first request
/// (1), and the gate epoch, which identifies the last congestion event (16). The default ticket has taken a slot and no bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ticket {
    bytes: u64,
    bits: u64,
}

/// The reason why a request is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocked {
    /// The byte budget is used up, so that an earlier attempt must end first. For [`Constraints::take`] also: the gate is closed.
    Full,
    /// The limit on submissions without a response or on requests in flight is reached, or other requests are already waiting.
    WindowFull,
    /// The rate limit, or the gate (closed after a 429 response), holds the request back until this time at the earliest, measured from the
    /// clock's origin.
    NotUntil(Duration),
}

/// The outcome of an attempt to send a request. If the attempt was refused or got no response, contains the time until which the gate stops
/// other requests. The caller computes this time from the server's retry delay, adds jitter, and limits it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TicketOutcome {
    /// The server accepted the request.
    Accepted,
    /// The server refused the request (429).
    Refused {
        /// The time before which no other request is admitted, measured from the clock's origin.
        until: Duration,
    },
    /// The server sent another response, which neither accepts nor refuses the request, for example an error.
    Answered,
    /// The attempt got no response, for example because the connection failed.
    Unanswered {
        /// If the attempt was the first request after a rate-limit pause: the time before which no other request is sent in its place,
        /// measured from the clock's origin. Without effect for other attempts.
        until: Duration,
    },
    /// The attempt was dropped before its outcome was known.
    Dropped,
}

/// The effects that the end of an attempt to send a request had on the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettleEffects {
    /// The numbers of requests after the end of the attempt, and whether requests are waiting.
    pub view: WindowView,
    /// The new deadline of the gate if the attempt was refused (429 response), and otherwise `None`.
    pub closed: Option<GateClosed>,
    /// Whether the response to the attempt opened the gate. Only the first request after a rate-limit pause can do this.
    pub reopened: bool,
    /// Whether the attempt was the first request after a rate-limit pause and was dropped without a response. Then another request may be
    /// sent in its place at once.
    pub first_request_handed_over: bool,
}

impl Constraints {
    /// Creates limits from which no request has taken anything yet, with an open gate.
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
    /// moment, so another request may have found no free slot meanwhile and waits. After an error the caller must therefore admit waiting
    /// requests for which there is room, as after any release of a slot.
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

    /// Admits the request at the head of the queue if all limits allow it. If the gate is closed and its deadline has passed, admits the
    /// request as the first request after the pause: other requests wait for its response. If it gets none within `patience`, another
    /// request may take its place.
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

    /// Returns whether an admitted request may still be sent: not if a 429 response to another request has closed the gate since the
    /// admission. Call it immediately before sending.
    #[inline]
    pub fn may_leave(&self, ticket: &Ticket) -> bool {
        self.gate.still_admits(ticket.pass())
    }

    /// Treats all submissions without a response as accepted by the server. This raises the limit on such submissions if it is in a gradual
    /// increase (slow start, or after a rate-limit pause). Returns whether the limit rose.
    ///
    /// For servers that do not respond to an accepted request until it has a result: a request that such a server has not refused for some
    /// time was accepted.
    pub fn presume_accepted(&self) -> bool {
        let allowed = self.ramp.allows();
        self.ramp.accepted(self.window.view().unanswered);
        self.ramp.allows() > allowed
    }

    /// Opens the gate, and returns true, if the gate waits for a response to the first request after a rate-limit pause in the epoch
    /// `epoch`. Before that, restarts the gradual increase of the limit on submissions without a response, which ends at `level`. See
    /// [`BackoffGate::reopen`].
    pub fn reopen(&self, epoch: Epoch, level: u32) -> bool {
        // The ramp restarts first, so that every thread that sees the open gate also sees the ramp.
        self.ramp.restart(level);
        self.gate.reopen(epoch)
    }

    /// Keeps the gate closed until `until`, unless its deadline is later already. For a refused attempt (429 response) whose retry delay
    /// became known only after [`Constraints::settle`]. See [`BackoffGate::close`].
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

    /// Ends an attempt: reports its outcome to the gate, and releases what its ticket has taken, except the in-flight unit, which
    /// [`Constraints::release`] releases. `level` is called if the gate opens. It returns the value at which the gradual increase of the
    /// limit on submissions without a response ends.
    ///
    /// The slot is released last: when another request takes the slot, the state of the gate and of the gradual increase is already up to
    /// date. The returned state of the window shows whether requests are waiting; the caller must then admit those for which there is room.
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

    /// Does everything of [`Constraints::settle`] except releasing the slot. Returns the values of the fields `closed`, `reopened` and
    /// `first_request_handed_over` of [`SettleEffects`].
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

    /// Reports an ended attempt to the adaptive limit, and applies the resulting limit on requests in flight. Returns the reason if the
    /// limit has changed.
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

    /// Starts a limit probe (a temporary increase of the in-flight limit) if one is due, and applies the raised limit. Call it when a
    /// request waits because the in-flight limit is reached.
    pub fn probe_limit(&self, limit: &mut AdaptiveLimit, now: Duration) -> Option<LimitChange> {
        if self.gate.open().is_some() {
            limit.on_gate_seen_open(self.window.view().in_flight);
        }
        let change = limit.on_window_full(now)?;
        self.window.set_limit(limit.limit());
        Some(change)
    }

    /// Releases the in-flight unit of a request that has ended. Returns the numbers of requests afterwards, and whether requests are
    /// waiting.
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

    /// Changes the rate limit, the byte budget and the number of slots. Does not change the in-flight limit: [`AdaptiveLimit::set_ceiling`]
    /// is for that.
    pub fn resize(&self, bounds: Bounds) {
        self.rate.set(bounds.rate);
        self.bytes.resize(bounds.bytes);
        self.slots.set(|_| (bounds.slots.max(1).into(), ()));
    }

    /// Returns the gate, which stops new requests after a refusal (429 response).
    pub fn gate(&self) -> &BackoffGate {
        &self.gate
    }

    /// Returns the window, which counts and limits requests in flight and submissions without a response.
    pub fn window(&self) -> &ConcurrencyWindow {
        &self.window
    }

    /// Returns the byte budget, which limits the number of bytes in submissions without a response.
    pub fn bytes(&self) -> &ByteBudget {
        &self.bytes
    }

    /// Returns how many compare-and-swap attempts, in all limits together, have failed so far because another thread changed the value first.
    #[cfg(feature = "contention")]
    pub fn contention(&self) -> u64 {
        self.gate.contention()
            + self.window.contention()
            + self.bytes.contention()
            + self.ramp.contention()
            + self.rate.contention()
    }

    /// Returns the current maximum number of submissions without a response: the configured slots, or fewer during the slow start or the
    /// gradual increase after a rate-limit pause.
    #[inline]
    pub fn slots(&self) -> u32 {
        self.ramp.allows().min(self.most_slots())
    }

    /// Returns the configured maximum number of submissions without a response. During the slow start, and for a while after a rate-limit
    /// pause, a lower limit applies (see [`Constraints::slots`]).
    #[inline]
    pub fn most_slots(&self) -> u32 {
        self.slots.load() as u32
    }

    /// Returns whether the limit on submissions without a response is at its configured value, because the slow start or the gradual
    /// increase after a rate-limit pause has ended.
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

    /// Returns whether the attempt is the first request after a rate-limit pause, whose response decides whether the gate opens.
    pub const fn is_first_request(&self) -> bool {
        self.bits & Self::FIRST_REQUEST != 0
    }

    /// Returns the gate epoch in which the attempt was admitted: the number of congestion events until then.
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
