//! The limiter of one route class: its limits, its waiters, and what it learns from responses.

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

/// The limiter of one route class (kind of request). Admission without contention takes no lock: the mutex guards only the queue and the
/// state that is learned from refusals.
#[derive(Debug)]
pub(crate) struct ClassLimiter {
    pub(crate) class: RouteClass,
    pub(crate) constraints: Constraints,
    pub(crate) counters: Counters,
    state: Mutex<State>,
    /// The number of times in a row that the first request after a rate-limit pause was refused or got no response. Reset to 0 when the
    /// gate opens.
    failed_first_requests: AtomicU64,
    events: broadcast::Sender<LimiterEvent>,
}

#[derive(Debug)]
struct State {
    queue: WaitQueue,
    adaptive_limit: AdaptiveLimit,
    /// The time at which a timer tries again to admit waiting requests. `None` if no timer is needed.
    serve_at: Option<Timestamp>,
    /// The time at which the gate admitted the latest first request after a rate-limit pause. Used to measure the response time of that
    /// request.
    first_request: Option<Timestamp>,
    /// The response time of the last successful first request after a rate-limit pause. The timeout of the first request after the next
    /// pause depends on it.
    first_request_took: Duration,
    /// The last time at which a response or a returned permit made room for waiting requests.
    last_queue_progress: Option<Timestamp>,
    /// The earliest time at which unused admissions are taken back. An admission is unused if a waiting request was admitted, but its
    /// future was not polled since.
    lapse_at: Timestamp,
    /// During the gradual increase after a rate-limit pause: the time at which polls (requests for results) that have no response yet count
    /// as accepted by the server.
    ramp_at: Option<Timestamp>,
}

/// The outcome of polling a request in the queue.
#[derive(Debug)]
pub(crate) enum PollOutcome {
    /// The request was admitted.
    Granted(Ticket),
    /// The request still waits. Its waker is called when the request should be polled again. If a time is given, the request must also be
    /// polled at that time, since that poll admits waiting requests.
    Waiting(Option<Timestamp>),
}

/// An attempt to send a request that has ended, with the effects of its end on the limits.
struct Ended {
    ticket: Ticket,
    outcome: TicketOutcome,
    /// Whether the server refused the attempt (429 response) and sent a retry delay.
    is_hinted: bool,
    settled: SettleEffects,
}

impl ClassLimiter {
    /// The minimum timeout of the first request after a rate-limit pause. If it has no response by then, another request may take its
    /// place. If twice the response time of the last successful first request is longer, that is the timeout.
    const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
    /// The time after which the first poll (request for a result) after a rate-limit pause counts as accepted although it has no response.
    /// The time is short: the server refuses a poll at once, but responds to an accepted poll only when there is a result.
    const FIRST_POLL_TIMEOUT: Duration = Duration::from_millis(250);
    /// The time after which an unused admission is taken back while other requests wait. An admission is unused if a waiting request was
    /// admitted, but its future was not polled since; the runtime of this future is then probably not running.
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
                first_request: None,
                first_request_took: Duration::ZERO,
                last_queue_progress: None,
                lapse_at: Timestamp::ORIGIN,
                ramp_at: None,
            }),
            failed_first_requests: AtomicU64::new(0),
            events,
        }
    }

    /// Returns the units and bytes that a request takes from the limits. It takes no in-flight unit if it has an in-flight permit already.
    pub(crate) fn charge(&self, bytes: u64, has_in_flight: bool) -> Charge {
        let take = if self.counts_in_flight() && !has_in_flight {
            SlotRequest::SlotAndInFlight
        } else {
            SlotRequest::Slot
        };
        Charge { take, bytes }
    }

    /// Returns whether this route class has an in-flight limit. Only the class of sampling requests has one: other requests are too few, or
    /// end too soon, to need it.
    pub(crate) fn counts_in_flight(&self) -> bool {
        self.class == RouteClass::Sample
    }

    /// Admits a request if no requests wait in the queue and the limits have room. Takes no lock.
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

    /// Admits a nested request, which is made during another request, unless a refusal (429 response) has closed the gate.
    pub(crate) fn try_nested(&self) -> Option<Ticket> {
        let ticket = self.constraints.take_nested()?;
        self.counters.grants.add(1);
        Some(ticket)
    }

    /// Returns whether an admitted request may still be sent. It may not if a refusal (429 response) has closed the gate since the
    /// admission.
    pub(crate) fn may_leave(&self, ticket: &Ticket) -> bool {
        let may = self.constraints.may_leave(ticket);
        if !may {
            self.counters.held.add(1);
        }
        may
    }

    /// Keeps the gate closed until `until`, unless its deadline is later already. For an attempt that was refused (429 response) and ended
    /// before the server's retry delay was known.
    pub(crate) fn extend(&self, ticket: &Ticket, until: Timestamp, now: Timestamp) {
        self.locked(|state, deferred| {
            let closed = self.constraints.extend(ticket, until.since_origin());
            self.record_closure(state, closed, true, now, deferred);
            self.serve(state, now, deferred);
        });
    }

    /// Adds a request to the queue. Admits the request at once if it is the first in the queue and the limits have room.
    pub(crate) fn join(
        &self,
        key: QueueKey,
        arrival: Option<Arrival>,
        waiter: Waiter,
        now: Timestamp,
    ) -> (QueueEntry, PollOutcome) {
        self.locked(|state, deferred| {
            let entry = state.queue.join(key, arrival, waiter);
            // The flag is set before the queue is served: a thread that returns capacity afterwards sees that there are
            // waiters.
            self.constraints.window().set_waiters(true);
            self.serve(state, now, deferred);
            (entry, self.outcome(state, entry))
        })
    }

    /// Polls a request in the queue. If the request still waits, the waker of `waiter` replaces the waker from the last poll.
    ///
    /// If the request was admitted after the last poll, the admission is checked again: if the gate has closed since, or the admission was
    /// taken back, the request waits again at its old position.
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
                    // A grant is counted when it is collected, since a grant that is taken back is made again later.
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

    /// Removes a request from the queue. If it was admitted, but not polled since, returns its units and bytes to the limits.
    pub(crate) fn leave(&self, entry: QueueEntry, now: Timestamp) {
        self.locked(|state, deferred| {
            match state.queue.leave(entry) {
                Removed::Waiting(waiter) => deferred.drop(waiter.waker),
                Removed::Granted(ticket) => {
                    self.counters.unused.add(1);
                    self.constraints.undo(ticket, now.since_origin());
                }
                Removed::NotFound => return,
            }
            self.serve(state, now, deferred);
        });
    }

    /// Records the outcome of an attempt to send a request, releases what its ticket has taken, and admits waiting requests for which there
    /// is room now.
    pub(crate) fn settle(
        &self,
        ticket: Ticket,
        outcome: TicketOutcome,
        is_hinted: bool,
        now: impl Fn() -> Timestamp,
    ) {
        // Only refusals and the ends of first requests change more than counters, so only they need the time.
        let is_significant =
            ticket.is_first_request() || matches!(outcome, TicketOutcome::Refused { .. });
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
                state.last_queue_progress = Some(now);
            }
            self.learn(state, &ended, now, deferred);
            self.serve(state, now, deferred);
        });
    }

    /// Releases one unit of the in-flight limit, because a request has ended. Admits waiting requests for which there is room now.
    pub(crate) fn release(&self, now: impl Fn() -> Timestamp) {
        if self.constraints.release().has_waiters {
            let now = now();
            self.locked(|state, deferred| {
                state.last_queue_progress = Some(now);
                self.serve(state, now, deferred);
            });
        }
    }

    /// Returns the last time at which the queue could advance, because a response arrived or an in-flight permit was returned.
    pub(crate) fn last_queue_progress(&self) -> Option<Timestamp> {
        lock(&self.state).last_queue_progress
    }

    /// Replaces the configured limits. Requests in progress keep their permits.
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

    /// Returns the number of times in a row that the first request after a rate-limit pause was refused or got no response.
    pub(crate) fn failed_first_requests(&self) -> u32 {
        u32::try_from(self.failed_first_requests.load(Ordering::Relaxed)).unwrap_or(u32::MAX)
    }

    /// Returns the number of waiting requests, the number of admitted requests whose future was not polled since, and the learned in-flight
    /// limit.
    pub(crate) fn waiting(&self) -> (usize, usize, Option<u32>) {
        let state = lock(&self.state);
        let queue = &state.queue;
        (
            queue.len(),
            queue.uncollected(),
            state.adaptive_limit.level(),
        )
    }

    /// Returns the timeout of the first request after a rate-limit pause: if it has no response by then, another request may take its
    /// place.
    pub(crate) fn first_request_timeout(&self) -> Duration {
        self.first_request_timeout_in(&lock(&self.state))
    }

    /// Returns the value at which the gradual increase of the limit on requests without a response ends, after a rate-limit pause.
    /// `u32::MAX` stands for an unknown value.
    fn level(&self) -> u32 {
        match self.class {
            RouteClass::Sample => lock(&self.state).adaptive_limit.level().unwrap_or(u32::MAX),
            // No in-flight limit is learned for polls, so their ramp ends at the number of slots.
            RouteClass::Poll => self.constraints.most_slots(),
            _ => u32::MAX,
        }
    }

    fn first_request_timeout_in(&self, state: &State) -> Duration {
        match self.class {
            RouteClass::Poll => Self::FIRST_POLL_TIMEOUT,
            _ => Self::FIRST_REQUEST_TIMEOUT.max(state.first_request_took.saturating_mul(2)),
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
            self.failed_first_requests.store(0, Ordering::Relaxed);
            state.ramp_at = None;
            if let Some(sent) = state.first_request.take() {
                state.first_request_took = now.since(sent);
            }
            deferred.publish(LimiterEvent::Opened { class: self.class });
        }
        if ticket.is_first_request()
            && matches!(
                outcome,
                TicketOutcome::Refused { .. } | TicketOutcome::Unanswered { .. }
            )
        {
            self.failed_first_requests.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(closed) = settled.closed {
            self.counters.refusals.add(1);
            self.counters.hints.add(u64::from(is_hinted));
            self.counters.events.add(u64::from(closed.is_new_event));
            self.record_closure(state, closed, is_hinted, now, deferred);
        }
        if self.counts_in_flight() {
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
        // The admission of these waiters fails now.
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

    /// Returns whether the request of `entry` is admitted or waits. If the queue must be checked again at a certain time, the first waiting
    /// request of each client gets a timer for that time, so that no client depends on the runtime of another client.
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

    /// Runs `change` under the lock. After releasing the lock, wakes the tasks and publishes the events that `change` has deferred, since
    /// wakers and event subscribers are user code.
    fn locked<T>(&self, change: impl FnOnce(&mut State, &mut Deferred) -> T) -> T {
        let mut deferred = Deferred::default();
        let done = change(&mut lock(&self.state), &mut deferred);
        self.counters.wakes.add(deferred.run(&self.events));
        done
    }
}
