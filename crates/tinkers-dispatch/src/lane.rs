//! One lane: what its requests must meet, who waits for it, and what its answers teach.

use std::time::Duration;

use tinkers_core::{Arrival, RouteClass, Timestamp};
use tinkers_limits::{
    AdaptiveLimit, Change, Closed, Constraints, Cost, Ending, Settled, Take, Ticket,
};
use tokio::sync::broadcast;

use crate::after::After;
use crate::event::{Counters, LimiterEvent};
use crate::queue::{Left, Line, Place, Queue, Waiter};
use crate::settings::ClassSettings;
use crate::sync::{AtomicU64, Mutex, Ordering, lock};

mod serve;

/// The uncontended way takes no lock: the mutex is for those who wait and for what the server refuses.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) class: RouteClass,
    pub(crate) constraints: Constraints,
    pub(crate) counters: Counters,
    state: Mutex<State>,
    /// Probes in a row that came to nothing.
    failed_probes: AtomicU64,
    events: broadcast::Sender<LimiterEvent>,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    growth: AdaptiveLimit,
    /// When the head could go as far as the gate and the rate say, while they hold it back.
    look_at: Option<Timestamp>,
    /// When the last probe went, and how long its answer took.
    probe: Option<Timestamp>,
    probe_took: Duration,
    /// When something last came back while somebody waited.
    moved: Option<Timestamp>,
    /// No grant lapses before this.
    lapse_at: Timestamp,
    /// When polls that are not answered are taken for accepted, while a ramp bounds them.
    ramp_at: Option<Timestamp>,
}

/// What a waiter finds.
#[derive(Debug)]
pub(crate) enum Look {
    /// It was let through.
    Granted(Ticket),
    /// It will be woken when something changes; at this time it has to look by itself.
    Waiting(Option<Timestamp>),
}

/// The end of an attempt, and what came of it.
struct Ended {
    ticket: Ticket,
    ending: Ending,
    /// Whether a refusal said for how long.
    is_hinted: bool,
    settled: Settled,
}

impl Lane {
    /// A probe that is not answered for so long lets another one go, unless answers usually take longer than half of it.
    const PATIENCE: Duration = Duration::from_secs(1);
    /// The same where the server holds what it takes: there an answer that does not come is the good one.
    const PATIENCE_WITH_POLLS: Duration = Duration::from_millis(250);
    /// A grant that is not collected for this long is taken back where others could use it: its owner's runtime stands still.
    const COLLECT_WITHIN: Duration = Duration::from_secs(1);

    pub(crate) fn new(
        class: RouteClass,
        settings: ClassSettings,
        events: broadcast::Sender<LimiterEvent>,
    ) -> Self {
        Self {
            class,
            constraints: Constraints::new(settings.bounds(class)),
            counters: Counters::default(),
            state: Mutex::new(State {
                queue: Queue::default(),
                growth: AdaptiveLimit::new(1, settings.ceiling()),
                look_at: None,
                probe: None,
                probe_took: Duration::ZERO,
                moved: None,
                lapse_at: Timestamp::ORIGIN,
                ramp_at: None,
            }),
            failed_probes: AtomicU64::new(0),
            events,
        }
    }

    /// What a request takes here.
    pub(crate) fn demand(&self, bytes: u64, has_flight: bool) -> Cost {
        let take = if self.counts_flights() && !has_flight {
            Take::SlotAndFlight
        } else {
            Take::Slot
        };
        Cost { take, bytes }
    }

    /// Only samples are many enough, and long enough, to be counted to their result.
    pub(crate) fn counts_flights(&self) -> bool {
        self.class == RouteClass::Sample
    }

    /// Lets a request through that nobody waits before. Takes no lock.
    #[inline]
    pub(crate) fn try_now(&self, demand: Cost, now: impl FnOnce() -> Timestamp) -> Option<Ticket> {
        let now = || now().since_origin();
        let ticket = self.constraints.take(demand, now).ok()?;
        self.counters.grants.add(1);
        Some(ticket)
    }

    /// Lets a request through that is made by one under way, unless the gate is closed.
    pub(crate) fn try_nested(&self) -> Option<Ticket> {
        let ticket = self.constraints.take_nested()?;
        self.counters.grants.add(1);
        Some(ticket)
    }

    /// Whether a request that was let through may leave now.
    pub(crate) fn may_leave(&self, ticket: &Ticket) -> bool {
        let may = self.constraints.may_leave(ticket);
        if !may {
            self.counters.held.add(1);
        }
        may
    }

    /// Keeps the gate closed until `until`, for a refusal whose hint came after it was settled.
    pub(crate) fn extend(&self, ticket: &Ticket, until: Timestamp, now: Timestamp) {
        self.locked(|state, after| {
            let closed = self.constraints.extend(ticket, until.since_origin());
            self.tell_closed(state, closed, true, now, after);
            self.serve(state, now, after);
        });
    }

    /// Takes a place among those who wait, and looks whether it can go at once.
    pub(crate) fn join(
        &self,
        line: Line,
        arrival: Option<Arrival>,
        waiter: Waiter,
        now: Timestamp,
    ) -> (Place, Look) {
        self.locked(|state, after| {
            let place = state.queue.join(line, arrival, waiter);
            // Before the last look for room: whoever gives something back afterwards sees that somebody waits.
            self.constraints.window().set_waiters(true);
            self.serve(state, now, after);
            (place, self.found(state, place))
        })
    }

    /// Looks whether a place was let through; otherwise `waiter` is what waits there from now on.
    ///
    /// A grant is checked when it is collected: the gate may have closed since, or the grant was taken back. Then the request waits
    /// again at its old place.
    pub(crate) fn look(&self, place: Place, waiter: Waiter, now: Timestamp) -> Look {
        self.locked(|state, after| {
            if state.look_at.is_some_and(|at| at <= now) {
                self.serve(state, now, after);
            }
            if let Some(waiting) = state.queue.waiter(place) {
                after.drop(std::mem::replace(&mut waiting.waker, waiter.waker));
                return self.found(state, place);
            }
            if let Some(ticket) = state.queue.collect(place) {
                if self.may_leave(&ticket) {
                    after.drop(waiter.waker);
                    // Counted when it is collected: one that is taken back is granted once more.
                    self.counters.grants.add(1);
                    return Look::Granted(ticket);
                }
                self.constraints.undo(ticket, now.since_origin());
            }
            state.queue.rejoin(place, waiter);
            self.constraints.window().set_waiters(true);
            self.serve(state, now, after);
            self.found(state, place)
        })
    }

    /// Gives a place up, with all that it was given.
    pub(crate) fn leave(&self, place: Place, now: Timestamp) {
        self.locked(|state, after| {
            match state.queue.leave(place) {
                Left::Waiting(waiter) => after.drop(waiter.waker),
                Left::Granted(ticket) => {
                    self.counters.unused.add(1);
                    self.constraints.undo(ticket, now.since_origin());
                }
                Left::Gone => return,
            }
            self.serve(state, now, after);
        });
    }

    /// Ends an attempt.
    pub(crate) fn settle(
        &self,
        ticket: Ticket,
        ending: Ending,
        is_hinted: bool,
        now: impl Fn() -> Timestamp,
    ) {
        // Only a probe or a refusal needs the time, and only they have to do with more than counts.
        let matters = ticket.is_probe() || matches!(ending, Ending::Refused { .. });
        let at = if matters { now() } else { Timestamp::ORIGIN };
        let settled = self
            .constraints
            .settle(ticket, ending, at.since_origin(), || self.level());
        if !matters && !settled.view.has_waiters {
            return;
        }
        let now = now();
        let ended = Ended {
            ticket,
            ending,
            is_hinted,
            settled,
        };
        let is_answered = match ending {
            Ending::Accepted | Ending::Refused { .. } | Ending::Answered => true,
            Ending::Unanswered { .. } | Ending::Dropped => false,
        };
        self.locked(|state, after| {
            if is_answered {
                state.moved = Some(now);
            }
            self.learn(state, &ended, now, after);
            self.serve(state, now, after);
        });
    }

    /// The end of a flight.
    pub(crate) fn land(&self, now: impl Fn() -> Timestamp) {
        if self.constraints.land().has_waiters {
            let now = now();
            self.locked(|state, after| {
                state.moved = Some(now);
                self.serve(state, now, after);
            });
        }
    }

    /// When something last came back while somebody waited.
    pub(crate) fn moved(&self) -> Option<Timestamp> {
        lock(&self.state).moved
    }

    /// Applies other limits from now on; what is taken stays taken.
    pub(crate) fn resize(&self, settings: ClassSettings, now: Timestamp) {
        self.locked(|state, after| {
            self.constraints.resize(settings.bounds(self.class));
            state.growth.set_ceiling(settings.ceiling());
            self.constraints.window().set_limit(state.growth.limit());
            self.serve(state, now, after);
        });
    }

    /// How many probes in a row came to nothing.
    pub(crate) fn failed_probes(&self) -> u32 {
        u32::try_from(self.failed_probes.load(Ordering::Relaxed)).unwrap_or(u32::MAX)
    }

    /// Who waits, how many tickets wait to be collected, and what was learned.
    pub(crate) fn waiting(&self) -> (usize, usize, Option<u32>) {
        let state = lock(&self.state);
        let queue = &state.queue;
        (queue.len(), queue.uncollected(), state.growth.level())
    }

    /// How long a probe may be without an answer now, before another one goes.
    pub(crate) fn patience(&self) -> Duration {
        self.patience_in(&lock(&self.state))
    }

    /// The level for the ramp after a pause.
    fn level(&self) -> u32 {
        match self.class {
            RouteClass::Sample => lock(&self.state).growth.level().unwrap_or(u32::MAX),
            // No level is learned for polls; all that fit go in the end.
            RouteClass::Poll => self.constraints.most_slots(),
            _ => u32::MAX,
        }
    }

    fn patience_in(&self, state: &State) -> Duration {
        match self.class {
            RouteClass::Poll => Self::PATIENCE_WITH_POLLS,
            _ => Self::PATIENCE.max(state.probe_took.saturating_mul(2)),
        }
    }

    fn learn(&self, state: &mut State, ended: &Ended, now: Timestamp, after: &mut After) {
        let &Ended {
            ticket,
            ending,
            is_hinted,
            ref settled,
        } = ended;
        if settled.reopened {
            self.failed_probes.store(0, Ordering::Relaxed);
            state.ramp_at = None;
            if let Some(sent) = state.probe.take() {
                state.probe_took = now.since(sent);
            }
            after.tell(LimiterEvent::Opened { class: self.class });
        }
        if ticket.is_probe() && matches!(ending, Ending::Refused { .. } | Ending::Unanswered { .. })
        {
            self.failed_probes.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(closed) = settled.closed {
            self.counters.refusals.add(1);
            self.counters.hints.add(u64::from(is_hinted));
            self.counters
                .events
                .add(u64::from(closed.first_of_its_event));
            self.tell_closed(state, closed, is_hinted, now, after);
        }
        if self.counts_flights() {
            let at = now.since_origin();
            let change = self
                .constraints
                .learn(&mut state.growth, ticket, settled, ending, at);
            if let Some(why) = change {
                self.tell_change(why, state, after);
            }
        }
    }

    fn tell_closed(
        &self,
        state: &mut State,
        closed: Closed,
        is_hinted: bool,
        now: Timestamp,
        after: &mut After,
    ) {
        let until = Timestamp::from_origin(closed.until);
        after.tell(LimiterEvent::ClosedUntil {
            class: self.class,
            pause: until.since(now),
            is_hinted,
            is_first: closed.first_of_its_event,
        });
        // They can fail now.
        for waker in state.queue.with_deadline_before(until) {
            after.wake(Some(waker));
        }
    }

    fn tell_change(&self, why: Change, state: &State, after: &mut After) {
        after.tell(LimiterEvent::WindowChanged {
            class: self.class,
            limit: state.growth.limit(),
            why,
        });
    }

    /// What `place` has come to. The first of a line looks at the gate by itself, so that no line depends on another one's
    /// runtime.
    fn found(&self, state: &mut State, place: Place) -> Look {
        if let Some(ticket) = state.queue.collect(place) {
            self.counters.grants.add(1);
            return Look::Granted(ticket);
        }
        let alarm = state
            .look_at
            .filter(|_| state.queue.is_first_of_its_line(place));
        if let Some(waiter) = state.queue.waiter(place) {
            waiter.alarm = alarm;
        }
        Look::Waiting(alarm)
    }

    /// Runs `change` under the lock, and afterwards, without it, what runs foreign code: wakers and subscribers.
    fn locked<T>(&self, change: impl FnOnce(&mut State, &mut After) -> T) -> T {
        let mut after = After::default();
        let done = change(&mut lock(&self.state), &mut after);
        self.counters.wakes.add(after.run(&self.events));
        done
    }
}
