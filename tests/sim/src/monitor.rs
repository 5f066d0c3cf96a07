//! Checks invariants during a run: backoff, the rate of polls, sessions and repeated requests.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tinkers_core::{RouteClass, Timestamp};
use tinkers_dispatch::{ClassSnapshot, GateSnapshot, Limiter};

use crate::invariant::{Invariant, Violation};
use crate::trace::Trace;

/// The maximum number of polls for the result of one request within a minute. The client polls most
/// often if the server alternately responds after a second and at once. The limit includes an
/// allowance for jitter. tinkers-futures defines the pauses between polls.
const MAX_POLLS_PER_MINUTE: usize = 130;
const MINUTE: Duration = Duration::from_secs(60);
/// The maximum number of consecutive failed polls for the result of one request within a minute.
/// The client retries after pauses that start at 0.5 s and double. During an outage, it also sends
/// one of the waiting retries early: at first every second, and later at intervals of a twentieth
/// of the duration of the outage so far.
const MAX_FAILED_POLLS_PER_MINUTE: usize = 50;
/// The maximum number of polls for single results that may be in flight at the same time.
const MAX_CONCURRENT_POLLS: usize = 4000;
/// The longest time for which the client pauses after a 429 response. It shortens longer retry
/// delays to this time.
const MAX_HINT: Duration = Duration::from_secs(15 * 60);
/// The delay for which the client stops requests after a 429 response without a `retry-after` hint.
const DEFAULT_HINT: Duration = Duration::from_secs(1);

/// A monitor that checks, during a run, the invariants of requests, polls, backoffs and sessions.
/// Clones share their state.
#[derive(Debug, Clone, Default)]
pub struct Monitor(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    trace: OnceLock<Trace>,
    limiter: OnceLock<Arc<Limiter>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    violations: Vec<Violation>,
    classes: [ClassState; 5],
    /// The polls that were sent since the last 429 response to a poll. `None` if there was no such
    /// response.
    polls_after_pause: Option<PollsAfterPause>,
    result_polls: BTreeMap<String, ResultPolls>,
    concurrent_polls: usize,
    sessions: BTreeMap<String, SessionHistory>,
    deliveries: BTreeMap<u64, u32>,
}

#[derive(Debug)]
struct SessionHistory {
    created_at: Timestamp,
    heartbeats: Vec<(Timestamp, HeartbeatOutcome)>,
}

/// The backoff of a route class, as the monitor computes it from the 429 responses and as the
/// client's rate limiter reports it.
#[derive(Debug, Default, Clone, Copy)]
struct ClassState {
    /// The end of the backoff, computed from the 429 responses that the client has received.
    closed_until: Timestamp,
    /// The end of the backoff according to the last snapshot of the rate limiter. It must never
    /// move to an earlier time.
    reported: Option<Timestamp>,
}

/// The polls that were sent since a 429 response to a poll. The client must increase the number of
/// outstanding polls (sent, but without a response) gradually.
#[derive(Debug, Default)]
struct PollsAfterPause {
    /// The time at which the first poll after the 429 response was sent.
    first: Option<Timestamp>,
    /// The time at which the second poll after the 429 response was sent.
    second: Option<Timestamp>,
    sent: u64,
    completed: u64,
    /// The number of polls that were sent before the 429 response and have completed after it. Each
    /// of these completions allows one more outstanding poll.
    freed_slots: u64,
}

impl PollsAfterPause {
    /// Records that a poll is sent. Returns the number of outstanding polls (sent, but without a
    /// response) if it exceeds the limit.
    ///
    /// The limit is twice the sum of 8 and the number of completed polls. It doubles every quarter
    /// of a second, because the server may hold a poll until a result is ready. Each poll in
    /// `freed_slots` adds one to the limit.
    fn send(&mut self, at: Timestamp) -> Option<u64> {
        self.sent += 1;
        if self.first.is_none() {
            self.first = Some(at);
            return None;
        }
        let second = *self.second.get_or_insert(at);
        let doublings = at.since(second).as_millis() / 250;
        let outstanding = self.sent.saturating_sub(self.completed);
        let max = (8 + self.completed).checked_shl(1 + u32::try_from(doublings).ok()?)?;
        (doublings < 16 && outstanding > max + self.freed_slots).then_some(outstanding)
    }
}

/// The history of the polls for the result of one request.
#[derive(Debug, Default)]
struct ResultPolls {
    sent: TimesOfLastMinute,
    /// The times, within the last minute, of the polls for this result that have failed since the
    /// last successful one.
    failed: TimesOfLastMinute,
    total: u64,
}

/// The times within the last minute at which an event, such as a poll, has happened.
#[derive(Debug, Default)]
struct TimesOfLastMinute(VecDeque<Timestamp>);

impl TimesOfLastMinute {
    /// Adds an event at the time `at`, and returns the number of events within the minute before
    /// it, including this event.
    fn add(&mut self, at: Timestamp) -> usize {
        self.0.push_back(at);
        while self
            .0
            .front()
            .is_some_and(|first| at.since(*first) > MINUTE)
        {
            self.0.pop_front();
        }
        self.0.len()
    }
}

/// The outcome of a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeartbeatOutcome {
    /// The client received the response of the server to the heartbeat.
    Delivered,
    /// A fault affected the heartbeat, so that it may not have reached the server.
    Failed,
}

impl Monitor {
    /// Creates a monitor. It marks the first violation in `trace`, so that the lines around the
    /// violation are stored.
    pub fn new(trace: &Trace) -> Self {
        let monitor = Self::default();
        let _ = monitor.0.trace.set(trace.clone());
        monitor
    }

    /// Sets the rate limiter of the client. The monitor checks until when this rate limiter stops
    /// requests after 429 responses. Only the first call has an effect.
    pub fn set_limiter(&self, limiter: &Arc<Limiter>) {
        let _ = self.0.limiter.set(Arc::clone(limiter));
    }

    /// Records a violation of `invariant`.
    pub fn report(&self, invariant: Invariant, text: impl Into<String>) {
        self.add_violation(&mut self.lock(), invariant, text.into());
    }

    /// Returns whether a violation of `invariant` has been recorded.
    pub fn has_violation(&self, invariant: Invariant) -> bool {
        let violations = &self.lock().violations;
        violations.iter().any(|found| found.invariant == invariant)
    }

    /// Records that a request is sent, and checks that no pause after a 429 response of its route
    /// class is still active.
    pub fn request_sent(&self, class: RouteClass, at: Timestamp, request: &str) {
        self.check_gates(at);
        let mut state = self.lock();
        let closed_until = state.classes[class.index()].closed_until;
        // The client learns of a refusal from the head of the response, and checks each request
        // again before it is sent.
        if class != RouteClass::Control && at < closed_until {
            let early = closed_until.since(at);
            let class = class.name();
            let text = format!("{request} was sent {early:?} before the gate of {class} opens");
            self.add_violation(&mut state, Invariant::RetryAfter, text);
        } else if class == RouteClass::Poll
            && let Some(polls) = &mut state.polls_after_pause
            && let Some(outstanding) = polls.send(at)
        {
            state.polls_after_pause = None;
            let text = format!("{request} is outstanding poll {outstanding} soon after a pause");
            self.add_violation(&mut state, Invariant::GradualPolls, text);
        }
    }

    /// Records that the head or the body of a 429 response has arrived, with the retry delay
    /// `hint`, if any. Returns the time until which the client must send no request of the route
    /// class.
    pub fn rate_limited(
        &self,
        class: RouteClass,
        at: Timestamp,
        hint: Option<Duration>,
    ) -> Timestamp {
        let closed_until = {
            let mut state = self.lock();
            let end = at.after(hint.unwrap_or(DEFAULT_HINT).min(MAX_HINT));
            let class_state = &mut state.classes[class.index()];
            class_state.closed_until = class_state.closed_until.max(end);
            let closed_until = class_state.closed_until;
            if class == RouteClass::Poll {
                state.polls_after_pause = Some(PollsAfterPause::default());
            }
            closed_until
        };
        self.check_gates(at);
        closed_until
    }

    /// Records that a poll, sent at the time `sent_at`, has completed or failed. It may be a shared
    /// poll or a poll for a single result.
    pub fn poll_completed(&self, sent_at: Timestamp) {
        if let Some(polls) = &mut self.lock().polls_after_pause {
            match polls.first.is_some_and(|first| first <= sent_at) {
                true => polls.completed += 1,
                false => polls.freed_slots += 1,
            }
        }
    }

    /// Records that a poll for the result of the request `request_id` is sent, and checks the
    /// number of such polls.
    pub fn result_poll_sent(&self, request_id: &str, at: Timestamp) {
        let mut state = self.lock();
        state.concurrent_polls += 1;
        let is_crowded = state.concurrent_polls > MAX_CONCURRENT_POLLS;
        let polls = state.result_polls.entry(request_id.to_owned()).or_default();
        polls.total += 1;
        if polls.sent.add(at) == MAX_POLLS_PER_MINUTE + 1 {
            let text = format!(
                "{request_id} was polled more than {MAX_POLLS_PER_MINUTE} times in a minute"
            );
            self.add_violation(&mut state, Invariant::PollRate, text);
        }
        if is_crowded {
            let text = format!("more than {MAX_CONCURRENT_POLLS} concurrent polls");
            self.add_violation(&mut state, Invariant::PollRate, text);
        }
    }

    /// Records that a poll for the result of the request `request_id` has received a response or
    /// failed, and checks the number of failures.
    pub fn result_poll_completed(&self, request_id: &str, at: Timestamp, has_failed: bool) {
        let mut state = self.lock();
        let polls = state.result_polls.entry(request_id.to_owned()).or_default();
        if !has_failed {
            polls.failed = TimesOfLastMinute::default();
            return;
        }
        if polls.failed.add(at) == MAX_FAILED_POLLS_PER_MINUTE + 1 {
            let text = format!(
                "polls for {request_id} failed more than {MAX_FAILED_POLLS_PER_MINUTE} times in a minute"
            );
            self.add_violation(&mut state, Invariant::PollRate, text);
        }
    }

    /// Records that a poll for a single result is no longer in flight, because the poll has
    /// completed or was cancelled.
    pub fn result_poll_ended(&self) {
        self.lock().concurrent_polls -= 1;
    }

    /// Returns the number of polls that were sent for the result of the request `request_id`.
    pub fn polls_of(&self, request_id: &str) -> u64 {
        let state = self.lock();
        let polls = state.result_polls.get(request_id);
        polls.map_or(0, |polls| polls.total)
    }

    /// Records that a session was created.
    pub fn session_created(&self, id: &str, at: Timestamp) {
        let history = SessionHistory {
            created_at: at,
            heartbeats: Vec::new(),
        };
        self.lock().sessions.insert(id.to_owned(), history);
    }

    /// Records the outcome of a heartbeat of a session.
    pub fn heartbeat(&self, session: &str, at: Timestamp, outcome: HeartbeatOutcome) {
        if let Some(history) = self.lock().sessions.get_mut(session) {
            history.heartbeats.push((at, outcome));
        }
    }

    /// Records that the program no longer uses a session. From now on, the expiry of the session is
    /// not reported as a violation.
    pub fn session_released(&self, session: &str) {
        self.lock().sessions.remove(session);
    }

    /// Records that a session has expired on the server, which received no heartbeat for `expiry`.
    /// Reports a violation unless injected faults have affected the heartbeats.
    pub fn session_expired(&self, session: &str, at: Timestamp, expiry: Duration) {
        let mut state = self.lock();
        let Some(history) = state.sessions.remove(session) else {
            return;
        };
        let recent = |outcome| {
            let heartbeats = history.heartbeats.iter();
            heartbeats
                .filter(|(when, found)| at.since(*when) < expiry && *found == outcome)
                .count()
        };
        let delivered = recent(HeartbeatOutcome::Delivered);
        let failed = recent(HeartbeatOutcome::Failed);
        // The response that created the session may have arrived late.
        let was_new = at.since(history.created_at) < expiry * 2 / 3;
        // The client follows the retry delay of a control request for at most a third of the
        // expiry. So it makes three attempts within the expiry, one of which may still be in
        // flight.
        if delivered > 0 || (failed < 2 && !was_new) {
            let text = format!(
                "{session} expired although {delivered} heartbeats were delivered within the last {expiry:?} and {failed} failed"
            );
            self.add_violation(&mut state, Invariant::SessionLiveness, text);
        }
    }

    /// Records that a request whose repetition would change a model twice was delivered to a server
    /// without deduplication. A second delivery is a violation. `body` is the hash of the request
    /// body.
    pub fn request_delivered(&self, body: u64, op: &str) {
        let mut state = self.lock();
        let deliveries = state.deliveries.entry(body).or_default();
        *deliveries += 1;
        if *deliveries == 2 {
            let text = format!("{op} was delivered twice to a server without deduplication");
            self.add_violation(&mut state, Invariant::AtMostOnce, text);
        }
    }

    /// Returns the violations that have been recorded so far.
    pub fn violations(&self) -> Vec<Violation> {
        self.lock().violations.clone()
    }

    /// Checks for each route class that the time until which the rate limiter stops requests after
    /// a 429 response has not moved to an earlier time.
    fn check_gates(&self, at: Timestamp) {
        let Some(limiter) = self.0.limiter.get() else {
            return;
        };
        let snapshot = limiter.snapshot();
        let classes: [(RouteClass, ClassSnapshot); 4] = [
            (RouteClass::Sample, snapshot.sample),
            (RouteClass::Train, snapshot.train),
            (RouteClass::Poll, snapshot.poll),
            (RouteClass::Rest, snapshot.rest),
        ];
        let mut state = self.lock();
        for (class, snapshot) in classes {
            let closed_until = match snapshot.gate {
                GateSnapshot::ClosedUntil(until) => Some(until),
                _ => None,
            };
            let before = state.classes[class.index()].reported;
            if let Some(before) = before.filter(|before| at < *before)
                && closed_until.is_none_or(|until| until < before)
            {
                let (class, gate) = (class.name(), snapshot.gate);
                let text = format!(
                    "the gate of {class} was closed until {before:?}, and then {gate:?} at {at:?}"
                );
                self.add_violation(&mut state, Invariant::Backoff, text);
            }
            state.classes[class.index()].reported = closed_until;
        }
    }

    fn add_violation(&self, state: &mut State, invariant: Invariant, text: String) {
        state.violations.push(Violation::new(invariant, text));
        if let Some(trace) = self.0.trace.get() {
            trace.mark_violation();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
