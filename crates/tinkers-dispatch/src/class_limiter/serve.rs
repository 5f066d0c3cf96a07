//! Serves the queue of a route class: selects the next request, and the time at which a timer serves the queue again.

use std::time::Duration;

use tinkers_core::{RouteClass, Timestamp};
use tinkers_limits::{Blocked, Charge, GateState, SlotRequest, Ticket};

use super::{ClassLimiter, State};
use crate::deferred::Deferred;
use crate::events::LimiterEvent;
use crate::sync::Ordering;

impl ClassLimiter {
    /// Admits waiting requests in order while the limits have room. Decides by the current limits, not by those at the time when a request
    /// began to wait. If requests must wait for a certain time, starts a timer.
    pub(super) fn serve(&self, state: &mut State, now: Timestamp, deferred: &mut Deferred) {
        state.serve_at = None;
        loop {
            let Some((entry, waiter)) = state.queue.next() else {
                self.constraints.window().set_waiters(false);
                return;
            };
            let charge = waiter.charge;
            let (entry, taken) = match self.take_queued(state, charge, now, deferred) {
                Err(Blocked::WindowFull) if charge.take == SlotRequest::SlotAndInFlight => {
                    // A retry that kept its in-flight permit needs only a slot, and its result may make room for other
                    // requests.
                    match state.queue.next_with_in_flight() {
                        Some((with_permit, waiter)) => {
                            let charge = waiter.charge;
                            (with_permit, self.take_queued(state, charge, now, deferred))
                        }
                        None => (entry, Err(Blocked::WindowFull)),
                    }
                }
                taken => (entry, taken),
            };
            match taken {
                Ok(ticket) => {
                    if ticket.is_first_request() {
                        state.first_request = Some(now);
                        self.counters.first_requests.add(1);
                        deferred.publish(LimiterEvent::FirstRequest { class: self.class });
                    }
                    deferred.wake(state.queue.grant(entry, ticket, now));
                }
                Err(Blocked::NotUntil(at)) => {
                    state.adaptive_limit.on_held_back(now.since_origin());
                    let at = Timestamp::from_origin(at);
                    return self.serve_again_at(state, at, deferred);
                }
                Err(Blocked::WindowFull | Blocked::Full) => {
                    if self.step_ramp(state, now) || self.take_back_lapsed(state, now) {
                        continue;
                    }
                    if let Some(at) = state.ramp_at {
                        self.serve_again_at(state, at, deferred);
                    } else if let Some(at) = self.earliest_lapse(state) {
                        // Grants are usually collected within microseconds, so one waiter with a timer is enough.
                        state.serve_at = Some(at);
                        let watcher = state.queue.set_watcher(at);
                        self.counters.watches.add(watcher.is_some().into());
                        deferred.wake(watcher);
                    }
                    return;
                }
            }
        }
    }

    /// Sets a timer at `at` for the first waiting request of each client. When it fires, the future of that request polls the queue, which
    /// admits waiting requests. Without a timer nothing would do so.
    fn serve_again_at(&self, state: &mut State, at: Timestamp, deferred: &mut Deferred) {
        state.serve_at = Some(at);
        for waker in state.queue.set_alarms(at) {
            deferred.wake(Some(waker));
        }
    }

    /// During the gradual increase after a rate-limit pause, counts polls (requests for results) as accepted if the server has not refused
    /// them for a while. The server responds to an accepted poll only when there is a result, which is too late to raise the limit. Returns
    /// whether the limit rose.
    fn step_ramp(&self, state: &mut State, now: Timestamp) -> bool {
        if self.class != RouteClass::Poll || self.constraints.has_no_ramp() {
            state.ramp_at = None;
            return false;
        }
        let at = *state
            .ramp_at
            .get_or_insert(now.after(Self::FIRST_POLL_TIMEOUT));
        if now < at {
            return false;
        }
        let allows_more = self.constraints.presume_accepted();
        state.ramp_at = (!allows_more).then(|| now.after(Self::FIRST_POLL_TIMEOUT));
        allows_more
    }

    /// Takes back unused admissions: those of requests that were admitted from the queue, but whose future was not polled in time. Their
    /// units return to the limits. Returns whether there were any.
    fn take_back_lapsed(&self, state: &mut State, now: Timestamp) -> bool {
        if state.queue.uncollected() == 0 || now < state.lapse_at {
            return false;
        }
        let granted_before = now.since_origin().saturating_sub(Self::COLLECT_WITHIN);
        let lapsed = state
            .queue
            .take_back(Timestamp::from_origin(granted_before));
        for ticket in &lapsed {
            self.constraints.undo(*ticket, now.since_origin());
        }
        self.counters.lapsed.add(lapsed.len() as u64);
        let oldest = state.queue.oldest_grant().unwrap_or(now);
        state.lapse_at = oldest
            .after(Self::COLLECT_WITHIN)
            .after(Duration::from_micros(1));
        !lapsed.is_empty()
    }

    /// Returns the time at which the oldest unused admission is taken back, if all slots in use belong to requests that were admitted but
    /// whose future was not polled since. In that case no response will make room, so only a timer at this time can let other requests in.
    fn earliest_lapse(&self, state: &State) -> Option<Timestamp> {
        let uncollected = state.queue.uncollected();
        let unanswered = self.constraints.window().view().unanswered as usize;
        (uncollected > 0 && uncollected == unanswered).then_some(state.lapse_at)
    }

    fn take_queued(
        &self,
        state: &mut State,
        charge: Charge,
        now: Timestamp,
        deferred: &mut Deferred,
    ) -> Result<Ticket, Blocked> {
        self.open_unrefused(state, now, deferred);
        loop {
            let first_request_timeout = self.first_request_timeout_in(state);
            let taken =
                self.constraints
                    .take_queued(charge, now.since_origin(), first_request_timeout);
            let is_full =
                taken == Err(Blocked::WindowFull) && charge.take == SlotRequest::SlotAndInFlight;
            if !is_full {
                return taken;
            }
            let view = self.constraints.window().view();
            if view.in_flight < view.limit {
                return taken;
            }
            match self
                .constraints
                .probe_limit(&mut state.adaptive_limit, now.since_origin())
            {
                Some(why) => self.record_change(why, state, deferred),
                None => return taken,
            }
        }
    }

    /// Opens the gate if the first request after a rate-limit pause is a poll (request for a result) that the server has not refused for a
    /// while. The poll then counts as accepted: the server responds to an accepted poll only when there is a result.
    fn open_unrefused(&self, state: &mut State, now: Timestamp, deferred: &mut Deferred) {
        if self.class != RouteClass::Poll {
            return;
        }
        let gate = self.constraints.gate();
        let epoch = gate.epoch();
        if let GateState::FirstRequestSince(at) = gate.state()
            && Timestamp::from_origin(at).after(self.first_request_timeout_in(state)) <= now
            && self
                .constraints
                .reopen(epoch, self.constraints.most_slots())
        {
            state.first_request = None;
            state.ramp_at = None;
            self.failed_first_requests.store(0, Ordering::Relaxed);
            deferred.publish(LimiterEvent::Opened { class: self.class });
        }
    }
}
