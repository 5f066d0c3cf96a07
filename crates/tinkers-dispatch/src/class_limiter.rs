//! The limiter of one class of requests: its constraints, its waiters, and what its responses teach.

use std::time::Duration;

use tinkers_core::{Arrival, RouteClass, Timestamp};
use tinkers_limits::{
    AdaptiveLimit, Charge, Constraints, GateClosed, LimitChange, SettleEffects, SlotRequest,
    Ticket, TicketOutcome,
};
use tokio::sync::broadcast;

use crate::deferred::Deferred;
use crate::events::{Counters, LimiterEvent};
use crate::settings::ClassSettings;
use crate::sync::{AtomicU64, Mutex, Ordering, lock};
use crate::wait_queue::{QueueEntry, QueueKey, Removed, WaitQueue, Waiter};

mod serve;

/// The limiter of one class. Admission without contention takes no lock: the mutex guards the queue and what refusals teach.
#[derive(Debug)]
pub(crate) struct ClassLimiter {
    pub(crate) class: RouteClass,
    pub(crate) constraints: Constraints,
    pub(crate) counters: Counters,
    state: Mutex<State>,
    /// The number of failed probes in a row.
    failed_probes: AtomicU64,
    events: broadcast::Sender<LimiterEvent>,
}

#[derive(Debug)]
struct State {
    queue: WaitQueue,
    adaptive_limit: AdaptiveLimit,
    /// When the queue is to be served again by a timer, while the gate or the rate holds the first waiter back.
    serve_at: Option<Timestamp>,
    /// When the last probe was admitted, and how long the response to the last successful one took.
    probe: Option<Timestamp>,
    probe_took: Duration,
    /// When capacity last came back while a request waited.
    last_movement: Option<Timestamp>,
    /// The earliest time at which a grant lapses.
    lapse_at: Timestamp,
    /// When polls without a response count as accepted, while a ramp limits them.
    ramp_at: Option<Timestamp>,
}

/// The outcome of polling a queue entry.
#[derive(Debug)]
pub(crate) enum PollOutcome {
    /// The request was admitted.
    Granted(Ticket),
    /// The request waits. Its waker is called on changes; at this time, if any, it has to poll by itself.
    Waiting(Option<Timestamp>),
}

/// A settled attempt.
struct Ended {
    ticket: Ticket,
    outcome: TicketOutcome,
    /// Whether a refusal had a hint.
    is_hinted: bool,
    settled: SettleEffects,
}

impl ClassLimiter {
    /// The minimum time without a response after which another probe may be sent. It grows to twice the last response time.
    const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
    /// The time for polls. The server holds a poll that it accepts, so a missing response is a good sign.
    const POLL_PROBE_TIMEOUT: Duration = Duration::from_millis(250);
    /// The time after which a grant that was not collected is taken back if others wait: the runtime of its waiter does not run.
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
                queue: WaitQueue::default(),
                adaptive_limit: AdaptiveLimit::new(1, settings.ceiling()),
                serve_at: None,
                probe: None,
                probe_took: Duration::ZERO,
                last_movement: None,
                lapse_at: Timestamp::ORIGIN,
                ramp_at: None,
            }),
            failed_probes: AtomicU64::new(0),
            events,
        }
    }

    /// Returns what a request takes of the constraints.
    pub(crate) fn charge(&self, bytes: u64, has_in_flight: bool) -> Charge {
        let take = if self.counts_flights() && !has_in_flight {
            SlotRequest::SlotAndInFlight
        } else {
            SlotRequest::Slot
        };
        Charge { take, bytes }
    }

    /// Returns whether the class counts requests until their result. Only samples are numerous and long enough.
    pub(crate) fn counts_flights(&self) -> bool {
        self.class == RouteClass::Sample
    }

    /// Admits a request if there are no waiters and it fits. Takes no lock.
    #[inline]
    pub(crate) fn try_now(
        &self,
        charge: Charge,
        now: impl FnOnce() -> Timestamp,
    ) -> Option<Ticket> {
        let now = || now().since_origin();
        let ticket = self.constraints.take(charge, now).ok()?;
        self.counters.grants.add(1);
        Some(ticket)
    }

    /// Admits a request that is made by a request in progress, unless the gate is closed.
    pub(crate) fn try_nested(&self) -> Option<Ticket> {
        let ticket = self.constraints.take_nested()?;
        self.counters.grants.add(1);
        Some(ticket)
    }

    /// Returns whether an admitted request may still be sent.
    pub(crate) fn may_leave(&self, ticket: &Ticket) -> bool {
        let may = self.constraints.may_leave(ticket);
        if !may {
            self.counters.held.add(1);
        }
        may
    }

    /// Closes the gate until `until`, for a refusal whose hint arrived after it was settled.
    pub(crate) fn extend(&self, ticket: &Ticket, until: Timestamp, now: Timestamp) {
        self.locked(|state, deferred| {
            let closed = self.constraints.extend(ticket, until.since_origin());
            self.record_closure(state, closed, true, now, deferred);
            self.serve(state, now, deferred);
        });
    }

    /// Adds a request to the queue, and admits it if it fits.
    pub(crate) fn join(
        &self,
        key: QueueKey,
        arrival: Option<Arrival>,
        waiter: Waiter,
        now: Timestamp,
    ) -> (QueueEntry, PollOutcome) {
        self.locked(|state, deferred| {
            let entry = state.queue.join(key, arrival, waiter);
            // Before the queue is served: a thread that returns capacity afterwards sees that there are waiters.
            self.constraints.window().set_waiters(true);
            self.serve(state, now, deferred);
            (entry, self.outcome(state, entry))
        })
    }

    /// Polls a queue entry. If it still waits, `waiter` replaces its waker.
    ///
    /// A grant is checked when it is collected: if the gate has closed since, or the grant was taken back, the request waits again at its
    /// old position.
    pub(crate) fn poll(&self, entry: QueueEntry, waiter: Waiter, now: Timestamp) -> PollOutcome {
        self.locked(|state, deferred| {
            if state.serve_at.is_some_and(|at| at <= now) {
                self.serve(state, now, deferred);
            }
            if let Some(waiting) = state.queue.waiter(entry) {
                deferred.drop(std::mem::replace(&mut waiting.waker, waiter.waker));
                return self.outcome(state, entry);
            }
            if let Some(ticket) = state.queue.collect(entry) {
                if self.may_leave(&ticket) {
                    deferred.drop(waiter.waker);
                    // Counted when collected, since a grant that is taken back is made again.
                    self.counters.grants.add(1);
                    return PollOutcome::Granted(ticket);
                }
                self.constraints.undo(ticket, now.since_origin());
            }
            state.queue.rejoin(entry, waiter);
            self.constraints.window().set_waiters(true);
            self.serve(state, now, deferred);
            self.outcome(state, entry)
        })
    }

    /// Removes a queue entry, and returns its grant, if any.
    pub(crate) fn leave(&self, entry: QueueEntry, now: Timestamp) {
        self.locked(|state, deferred| {
            match state.queue.leave(entry) {
                Removed::Waiting(waiter) => deferred.drop(waiter.waker),
                Removed::Granted(ticket) => {
                    self.counters.unused.add(1);
                    self.constraints.undo(ticket, now.since_origin());
                }
                Removed::Gone => return,
            }
            self.serve(state, now, deferred);
        });
    }

    /// Settles an attempt.
    pub(crate) fn settle(
        &self,
        ticket: Ticket,
        outcome: TicketOutcome,
        is_hinted: bool,
        now: impl Fn() -> Timestamp,
    ) {
        // Only probes and refusals change more than counts, so only they need the time.
        let is_significant = ticket.is_probe() || matches!(outcome, TicketOutcome::Refused { .. });
        let at = if is_significant {
            now()
        } else {
            Timestamp::ORIGIN
        };
        let settled = self
            .constraints
            .settle(ticket, outcome, at.since_origin(), || self.level());
        if !is_significant && !settled.view.has_waiters {
            return;
        }
        let now = now();
        let ended = Ended {
            ticket,
            outcome,
            is_hinted,
            settled,
        };
        let is_answered = match outcome {
            TicketOutcome::Accepted | TicketOutcome::Refused { .. } | TicketOutcome::Answered => {
                true
            }
            TicketOutcome::Unanswered { .. } | TicketOutcome::Dropped => false,
        };
        self.locked(|state, deferred| {
            if is_answered {
                state.last_movement = Some(now);
            }
            self.learn(state, &ended, now, deferred);
            self.serve(state, now, deferred);
        });
    }

    /// Returns a unit of the in-flight window.
    pub(crate) fn release(&self, now: impl Fn() -> Timestamp) {
        if self.constraints.release().has_waiters {
            let now = now();
            self.locked(|state, deferred| {
                state.last_movement = Some(now);
                self.serve(state, now, deferred);
            });
        }
    }

    /// Returns the last time at which the queue could advance: a response arrived or an in-flight permit was returned.
    pub(crate) fn last_movement(&self) -> Option<Timestamp> {
        lock(&self.state).last_movement
    }

    /// Replaces the limits. Requests in progress keep their permits.
    pub(crate) fn resize(&self, settings: ClassSettings, now: Timestamp) {
        self.locked(|state, deferred| {
            self.constraints.resize(settings.bounds(self.class));
            state.adaptive_limit.set_ceiling(settings.ceiling());
            self.constraints
                .window()
                .set_limit(state.adaptive_limit.limit());
            self.serve(state, now, deferred);
        });
    }

    /// Returns the number of failed probes in a row.
    pub(crate) fn failed_probes(&self) -> u32 {
        u32::try_from(self.failed_probes.load(Ordering::Relaxed)).unwrap_or(u32::MAX)
    }

    /// Returns the number of waiters, the number of uncollected grants, and the learned level.
    pub(crate) fn waiting(&self) -> (usize, usize, Option<u32>) {
        let state = lock(&self.state);
        let queue = &state.queue;
        (
            queue.len(),
            queue.uncollected(),
            state.adaptive_limit.level(),
        )
    }

    /// Returns the time without a response to a probe after which another probe may be sent.
    pub(crate) fn probe_timeout(&self) -> Duration {
        self.probe_timeout_in(&lock(&self.state))
    }

    /// Returns the level up to which the ramp after a pause doubles.
    fn level(&self) -> u32 {
        match self.class {
            RouteClass::Sample => lock(&self.state).adaptive_limit.level().unwrap_or(u32::MAX),
            // No level is learned for polls, so their ramp ends at the slots.
            RouteClass::Poll => self.constraints.most_slots(),
            _ => u32::MAX,
        }
    }

    fn probe_timeout_in(&self, state: &State) -> Duration {
        match self.class {
            RouteClass::Poll => Self::POLL_PROBE_TIMEOUT,
            _ => Self::PROBE_TIMEOUT.max(state.probe_took.saturating_mul(2)),
        }
    }

    fn learn(&self, state: &mut State, ended: &Ended, now: Timestamp, deferred: &mut Deferred) {
        let &Ended {
            ticket,
            outcome,
            is_hinted,
            ref settled,
        } = ended;
        if settled.reopened {
            self.failed_probes.store(0, Ordering::Relaxed);
            state.ramp_at = None;
            if let Some(sent) = state.probe.take() {
                state.probe_took = now.since(sent);
            }
            deferred.publish(LimiterEvent::Opened { class: self.class });
        }
        if ticket.is_probe()
            && matches!(
                outcome,
                TicketOutcome::Refused { .. } | TicketOutcome::Unanswered { .. }
            )
        {
            self.failed_probes.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(closed) = settled.closed {
            self.counters.refusals.add(1);
            self.counters.hints.add(u64::from(is_hinted));
            self.counters.events.add(u64::from(closed.is_new_event));
            self.record_closure(state, closed, is_hinted, now, deferred);
        }
        if self.counts_flights() {
            let at = now.since_origin();
            let change =
                self.constraints
                    .learn(&mut state.adaptive_limit, ticket, settled, outcome, at);
            if let Some(why) = change {
                self.record_change(why, state, deferred);
            }
        }
    }

    fn record_closure(
        &self,
        state: &mut State,
        closed: GateClosed,
        is_hinted: bool,
        now: Timestamp,
        deferred: &mut Deferred,
    ) {
        let until = Timestamp::from_origin(closed.until);
        deferred.publish(LimiterEvent::ClosedUntil {
            class: self.class,
            pause: until.since(now),
            is_hinted,
            is_first: closed.is_new_event,
        });
        // Their admission fails now.
        for waker in state.queue.take_wakers_with_deadline_before(until) {
            deferred.wake(Some(waker));
        }
    }

    fn record_change(&self, why: LimitChange, state: &State, deferred: &mut Deferred) {
        deferred.publish(LimiterEvent::WindowChanged {
            class: self.class,
            limit: state.adaptive_limit.limit(),
            why,
        });
    }

    /// Returns the outcome for `entry`. The first entry of each client gets a timer, so that no client depends on the runtime of another
    /// one.
    fn outcome(&self, state: &mut State, entry: QueueEntry) -> PollOutcome {
        if let Some(ticket) = state.queue.collect(entry) {
            self.counters.grants.add(1);
            return PollOutcome::Granted(ticket);
        }
        let alarm = state
            .serve_at
            .filter(|_| state.queue.is_first_of_its_client(entry));
        if let Some(waiter) = state.queue.waiter(entry) {
            waiter.alarm = alarm;
        }
        PollOutcome::Waiting(alarm)
    }

    /// Runs `change` under the lock, then the wakers and event subscribers that it deferred, without the lock: they are foreign code.
    fn locked<T>(&self, change: impl FnOnce(&mut State, &mut Deferred) -> T) -> T {
        let mut deferred = Deferred::default();
        let done = change(&mut lock(&self.state), &mut deferred);
        self.counters.wakes.add(deferred.run(&self.events));
        done
    }
}
