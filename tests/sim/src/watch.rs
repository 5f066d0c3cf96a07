//! What the network sees of the promises: hints, polls, heartbeats, deliveries.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tinkers_core::{RouteClass, Timestamp};
use tinkers_dispatch::{ClassSnapshot, Gate, Limiter};

use crate::trace::Trace;

/// One promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// How.
    pub what: String,
}

/// The promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A call ends, once, within its deadline.
    EndsOnce,
    /// Who is told that nothing was sent, or of a success, is told the truth.
    Truth,
    /// Requests are applied at most once, in the order of the calls.
    Order,
    /// The weights are those of the applied calls alone.
    Weights,
    /// Where a server does not de-duplicate, nothing is sent twice.
    NoRepeat,
    /// Nothing leaves before a hint.
    Hint,
    /// The deadline of a backoff never falls.
    Backoff,
    /// Polls are paced.
    Polls,
    /// A session lives while its client does and the network is up.
    Session,
    /// In the end nothing is held.
    Baseline,
    /// A panic reaches whom it concerns.
    Panic,
    /// Keys are told to nobody.
    Key,
    /// What repeats is not logged each time.
    Log,
    /// What is gone on from is on a counter.
    Counted,
    /// Time goes on.
    Progress,
    /// Nothing is submitted after the end of a session.
    Closed,
    /// A call that finds no connection is repeated for as long as its window lasts.
    Retries,
    /// A call that cannot be let through within its deadline fails at once.
    Deadline,
    /// A call in a queue that moves does not count as stalled.
    Queue,
    /// After a pause polls come back little by little.
    Ramp,
    /// Shared polls and acknowledgements are paced, and end when there is nothing to ask for.
    SharedPolls,
    /// A sample fails for what became of its own requests, and not of those of others.
    Waiters,
    /// Clients take turns, and the requests of each go in the order in which they came.
    Turns,
    /// A request that is made by a layer goes at once or fails at once.
    Nested,
    /// Foreign code is called without a lock.
    Foreign,
}

/// The most polls of one result within any minute: one that is held for a second and one that is not, in turns, with room for
/// their jitter. The pace of polls is in tinkers-futures.
const MOST_POLLS: usize = 130;
const MINUTE: Duration = Duration::from_secs(60);
/// The most of them that fail, one after the other: the first pauses double from half a second, and of all that wait for a server
/// that is away one tries in each second at first, and then in each twentieth of the time that it has been away.
const MOST_FAILURES: usize = 50;
/// The most polls at once.
const MOST_AT_ONCE: usize = 4000;
/// A hint is followed this far.
const MAX_HINT: Duration = Duration::from_secs(15 * 60);
/// What a refusal without a hint closes for.
const UNHINTED: Duration = Duration::from_secs(1);

/// What was seen so far. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Watch(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    trace: OnceLock<Trace>,
    limiter: OnceLock<Arc<Limiter>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    violations: Vec<Violation>,
    lanes: [Lane; 5],
    /// Polls since the last refusal of one.
    ramp: Option<Ramp>,
    polls: BTreeMap<String, Polls>,
    polling: usize,
    sessions: BTreeMap<String, Session>,
    delivered: BTreeMap<u64, u32>,
}

#[derive(Debug)]
struct Session {
    born: Timestamp,
    beats: Vec<(Timestamp, Beat)>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Lane {
    /// When the lane opens again after the refusals that were heard of.
    until: Timestamp,
    /// The gate's own word.
    closed: Option<Timestamp>,
}

/// How polls come back after a pause.
#[derive(Debug, Default)]
struct Ramp {
    /// When the first left, which is the probe, and when the second.
    first: Option<Timestamp>,
    second: Option<Timestamp>,
    left: u64,
    answered: u64,
    /// Polls from before the pause that ended since: each leaves its slot to another one.
    freed: u64,
}

impl Ramp {
    /// A poll leaves. Returns how many are not answered, when that is too many: as many as were answered, eight at least, and twice as
    /// many every quarter of a second, since a server holds the polls that it accepts.
    fn leaves(&mut self, at: Timestamp) -> Option<u64> {
        self.left += 1;
        if self.first.is_none() {
            self.first = Some(at);
            return None;
        }
        let second = *self.second.get_or_insert(at);
        let steps = at.since(second).as_millis() / 250;
        let unanswered = self.left.saturating_sub(self.answered);
        let most = (8 + self.answered).checked_shl(1 + u32::try_from(steps).ok()?)?;
        (steps < 16 && unanswered > most + self.freed).then_some(unanswered)
    }
}

#[derive(Debug, Default)]
struct Polls {
    last: VecDeque<Timestamp>,
    /// When they failed, since the last one that did not.
    failed: VecDeque<Timestamp>,
    all: u64,
}

/// What became of a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// It arrived and was answered.
    Arrived,
    /// Something went wrong with it.
    Struck,
}

impl Watch {
    /// A watch that marks the place in `trace` where something does not hold.
    pub fn new(trace: &Trace) -> Self {
        let watch = Self::default();
        let _ = watch.0.trace.set(trace.clone());
        watch
    }

    /// The limiter whose gates are looked at.
    pub fn look_at(&self, limiter: &Arc<Limiter>) {
        let _ = self.0.limiter.set(Arc::clone(limiter));
    }

    /// Something does not hold.
    pub fn report(&self, rule: Rule, what: impl Into<String>) {
        self.broken(&mut self.lock(), rule, what.into());
    }

    /// Whether something was found that breaks `rule`.
    pub fn has_found(&self, rule: Rule) -> bool {
        let found = &self.lock().violations;
        found.iter().any(|violation| violation.rule == rule)
    }

    /// A request leaves a client.
    pub fn leaves(&self, class: RouteClass, at: Timestamp, what: &str) {
        self.look(at);
        let mut state = self.lock();
        let lane = state.lanes[class.index()];
        // From the head of the refusal on: what is on its way to the socket is asked once more before it leaves.
        if class != RouteClass::Control && at < lane.until {
            let early = lane.until.since(at);
            self.broken(
                &mut state,
                Rule::Hint,
                format!(
                    "{what} left {early:?} before the lane of {} opens",
                    class.name()
                ),
            );
        } else if class == RouteClass::Poll
            && let Some(ramp) = &mut state.ramp
            && let Some(unanswered) = ramp.leaves(at)
        {
            state.ramp = None;
            let what =
                format!("{what} is the {unanswered}th poll without an answer soon after a pause");
            self.broken(&mut state, Rule::Ramp, what);
        }
    }

    /// A refusal for the rate came back.
    ///
    /// Returns until when its class is closed.
    pub fn refused(&self, class: RouteClass, at: Timestamp, hint: Option<Duration>) -> Timestamp {
        let until = {
            let mut state = self.lock();
            let lane = &mut state.lanes[class.index()];
            lane.until = lane
                .until
                .max(at.after(hint.unwrap_or(UNHINTED).min(MAX_HINT)));
            let until = lane.until;
            if class == RouteClass::Poll {
                state.ramp = Some(Ramp::default());
            }
            until
        };
        self.look(at);
        until
    }

    /// A poll that left at some time was answered, or failed.
    pub fn ramp_answered(&self, left_at: Timestamp) {
        if let Some(ramp) = &mut self.lock().ramp {
            match ramp.first.is_some_and(|first| first <= left_at) {
                true => ramp.answered += 1,
                false => ramp.freed += 1,
            }
        }
    }

    /// A poll for one result leaves.
    pub fn poll_leaves(&self, request_id: &str, at: Timestamp) {
        let mut state = self.lock();
        state.polling += 1;
        let too_many = state.polling > MOST_AT_ONCE;
        let polls = state.polls.entry(request_id.to_owned()).or_default();
        polls.all += 1;
        polls.last.push_back(at);
        while polls
            .last
            .front()
            .is_some_and(|first| at.since(*first) > MINUTE)
        {
            polls.last.pop_front();
        }
        let fast = (polls.last.len() > MOST_POLLS).then_some(polls.last.len());
        if fast == Some(MOST_POLLS + 1) {
            self.broken(
                &mut state,
                Rule::Polls,
                format!("{request_id} was asked for more than {MOST_POLLS} times in a minute"),
            );
        }
        if too_many {
            self.broken(
                &mut state,
                Rule::Polls,
                format!("more than {MOST_AT_ONCE} polls at once"),
            );
        }
    }

    /// A poll was answered, or failed on its way.
    pub fn poll_answered(&self, request_id: &str, at: Timestamp, has_failed: bool) {
        let mut state = self.lock();
        let polls = state.polls.entry(request_id.to_owned()).or_default();
        if !has_failed {
            polls.failed.clear();
            return;
        }
        polls.failed.push_back(at);
        while polls
            .failed
            .front()
            .is_some_and(|first| at.since(*first) > MINUTE)
        {
            polls.failed.pop_front();
        }
        if polls.failed.len() == MOST_FAILURES + 1 {
            self.broken(
                &mut state,
                Rule::Polls,
                format!(
                    "polls for {request_id} failed more than {MOST_FAILURES} times in a minute"
                ),
            );
        }
    }

    /// A poll has ended.
    pub fn poll_ends(&self) {
        self.lock().polling -= 1;
    }

    /// How often a result was asked for.
    pub fn polls_of(&self, request_id: &str) -> u64 {
        self.lock()
            .polls
            .get(request_id)
            .map_or(0, |polls| polls.all)
    }

    /// A client has a session from now on.
    pub fn session_begins(&self, session: &str, at: Timestamp) {
        let beats = Vec::new();
        let session = session.to_owned();
        self.lock()
            .sessions
            .insert(session, Session { born: at, beats });
    }

    /// A heartbeat of a session.
    pub fn beat(&self, session: &str, at: Timestamp, beat: Beat) {
        if let Some(session) = self.lock().sessions.get_mut(session) {
            session.beats.push((at, beat));
        }
    }

    /// A client has let go of its session.
    pub fn session_is_let_go(&self, session: &str) {
        self.lock().sessions.remove(session);
    }

    /// The server has ended a session, since it heard no heartbeat for `expiry`.
    pub fn session_expired(&self, name: &str, at: Timestamp, expiry: Duration) {
        let mut state = self.lock();
        let Some(session) = state.sessions.remove(name) else {
            return;
        };
        let (mut arrived, mut struck) = (0, 0);
        for (when, beat) in session.beats {
            match beat {
                _ if at.since(when) >= expiry => {}
                Beat::Arrived => arrived += 1,
                Beat::Struck => struck += 1,
            }
        }
        // The answer that told of the session may have been late.
        let was_new = at.since(session.born) < expiry * 2 / 3;
        // A hint on the lane of control is followed for a third of the expiry, so there are three tries, one of which may be under way.
        if arrived > 0 || (struck < 2 && !was_new) {
            self.broken(&mut state, Rule::Session, format!(
                    "{name} expired: {arrived} heartbeats arrived within the last {expiry:?} and {struck} were struck"
                ));
        }
    }

    /// A body that must not be applied twice was delivered.
    pub fn delivered(&self, body: u64, what: &str) {
        let mut state = self.lock();
        let times = state.delivered.entry(body).or_default();
        *times += 1;
        if *times == 2 {
            self.broken(
                &mut state,
                Rule::NoRepeat,
                format!("{what} was delivered twice to a server that may apply it twice"),
            );
        }
    }

    /// What does not hold so far.
    pub fn violations(&self) -> Vec<Violation> {
        self.lock().violations.clone()
    }

    /// Whether the gates' deadlines have only ever risen.
    fn look(&self, at: Timestamp) {
        let Some(limiter) = self.0.limiter.get() else {
            return;
        };
        let now = limiter.snapshot();
        let lanes: [(RouteClass, ClassSnapshot); 4] = [
            (RouteClass::Sample, now.sample),
            (RouteClass::Train, now.train),
            (RouteClass::Poll, now.poll),
            (RouteClass::Rest, now.rest),
        ];
        let mut state = self.lock();
        for (class, lane) in lanes {
            let closed = match lane.gate {
                Gate::ClosedUntil(until) => Some(until),
                _ => None,
            };
            let before = state.lanes[class.index()].closed;
            if let Some(before) = before.filter(|before| at < *before)
                && closed.is_none_or(|closed| closed < before)
            {
                self.broken(
                    &mut state,
                    Rule::Backoff,
                    format!(
                        "the gate of {} was closed until {before:?}, and then {:?} at {at:?}",
                        class.name(),
                        lane.gate
                    ),
                );
            }
            state.lanes[class.index()].closed = closed;
        }
    }

    fn broken(&self, state: &mut State, rule: Rule, what: String) {
        state.violations.push(Violation { rule, what });
        if let Some(trace) = self.0.trace.get() {
            trace.mark();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
