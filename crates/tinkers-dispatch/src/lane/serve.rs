//! Serving the queue of a lane: who goes next, and when it is to be served again by itself.

use std::time::Duration;

use tinkers_core::{RouteClass, Timestamp};
use tinkers_limits::{Blocked, Cost, GateState, Take, Ticket};

use super::{Lane, State};
use crate::after::After;
use crate::event::LimiterEvent;
use crate::sync::Ordering;

impl Lane {
    /// Lets through every request that can go, in order. All is decided here and now, whatever held when they began to wait.
    pub(super) fn serve(&self, state: &mut State, now: Timestamp, after: &mut After) {
        state.look_at = None;
        loop {
            let Some((place, waiter)) = state.queue.next() else {
                self.constraints.window().set_waiters(false);
                return;
            };
            let demand = waiter.demand;
            let (place, taken) = match self.take_turn(state, demand, now, after) {
                Err(Blocked::WindowFull) if demand.take == Take::SlotAndFlight => {
                    // What has its flight needs a slot alone, and its result may be what makes room for the others.
                    match state.queue.next_with_flight() {
                        Some((flying, waiter)) => {
                            let demand = waiter.demand;
                            (flying, self.take_turn(state, demand, now, after))
                        }
                        None => (place, Err(Blocked::WindowFull)),
                    }
                }
                taken => (place, taken),
            };
            match taken {
                Ok(ticket) => {
                    if ticket.is_probe() {
                        state.probe = Some(now);
                        self.counters.probes.add(1);
                        after.tell(LimiterEvent::Probing { class: self.class });
                    }
                    after.wake(state.queue.grant(place, ticket, now));
                }
                Err(Blocked::NotUntil(at)) => {
                    state.growth.held_back(now.since_origin());
                    let at = Timestamp::from_origin(at);
                    return self.look_again_at(state, at, after);
                }
                Err(Blocked::WindowFull | Blocked::Full) => {
                    if self.step_ramp(state, now) || self.take_back_lapsed(state, now) {
                        continue;
                    }
                    if let Some(at) = state.ramp_at {
                        self.look_again_at(state, at, after);
                    } else if let Some(at) = self.stands_until(state) {
                        // Usually they are collected within microseconds, so that one who watches is enough.
                        state.look_at = Some(at);
                        let watcher = state.queue.set_watch(at);
                        self.counters.watches.add(watcher.is_some().into());
                        after.wake(watcher);
                    }
                    return;
                }
            }
        }
    }

    /// Nothing is given back that would have the queue served before `at`: the first of each line looks by itself then.
    fn look_again_at(&self, state: &mut State, at: Timestamp, after: &mut After) {
        state.look_at = Some(at);
        for waker in state.queue.set_alarms(at) {
            after.wake(Some(waker));
        }
    }

    /// Takes polls that were not refused for a while for accepted, as long as a ramp bounds them: a server holds what it takes, so
    /// their answers come too late to be counted. Says whether the ramp allows more now.
    fn step_ramp(&self, state: &mut State, now: Timestamp) -> bool {
        if self.class != RouteClass::Poll || self.constraints.has_no_ramp() {
            state.ramp_at = None;
            return false;
        }
        let at = *state
            .ramp_at
            .get_or_insert(now.after(Self::PATIENCE_WITH_POLLS));
        if now < at {
            return false;
        }
        let allows_more = self.constraints.presume_accepted();
        state.ramp_at = (!allows_more).then(|| now.after(Self::PATIENCE_WITH_POLLS));
        allows_more
    }

    /// Takes back the grants that were not collected in time. Says whether there were any.
    fn take_back_lapsed(&self, state: &mut State, now: Timestamp) -> bool {
        if state.queue.uncollected() == 0 || now < state.lapse_at {
            return false;
        }
        let handed_over_at = now.since_origin().saturating_sub(Self::COLLECT_WITHIN);
        let lapsed = state
            .queue
            .take_back(Timestamp::from_origin(handed_over_at));
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

    /// When a grant lapses, where all that is taken is held by grants that are not collected: then nothing else moves the queue.
    fn stands_until(&self, state: &State) -> Option<Timestamp> {
        let uncollected = state.queue.uncollected();
        let unanswered = self.constraints.window().view().unanswered as usize;
        (uncollected > 0 && uncollected == unanswered).then_some(state.lapse_at)
    }

    fn take_turn(
        &self,
        state: &mut State,
        demand: Cost,
        now: Timestamp,
        after: &mut After,
    ) -> Result<Ticket, Blocked> {
        self.open_unrefused(state, now, after);
        loop {
            let patience = self.patience_in(state);
            let taken = self
                .constraints
                .take_turn(demand, now.since_origin(), patience);
            let is_full = taken == Err(Blocked::WindowFull) && demand.take == Take::SlotAndFlight;
            if !is_full {
                return taken;
            }
            let view = self.constraints.window().view();
            if view.in_flight < view.limit {
                return taken;
            }
            match self
                .constraints
                .try_more(&mut state.growth, now.since_origin())
            {
                Some(why) => self.tell_change(why, state, after),
                None => return taken,
            }
        }
    }

    /// Polls are held by a server that takes them: a probe among them that was not refused by now has been taken.
    fn open_unrefused(&self, state: &mut State, now: Timestamp, after: &mut After) {
        if self.class != RouteClass::Poll {
            return;
        }
        let gate = self.constraints.gate();
        let epoch = gate.epoch();
        if let GateState::ProbingSince(at) = gate.state()
            && Timestamp::from_origin(at).after(self.patience_in(state)) <= now
            && self
                .constraints
                .reopen(epoch, self.constraints.most_slots())
        {
            state.probe = None;
            state.ramp_at = None;
            self.failed_probes.store(0, Ordering::Relaxed);
            after.tell(LimiterEvent::Opened { class: self.class });
        }
    }
}
