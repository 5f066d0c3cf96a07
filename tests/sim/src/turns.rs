//! Who waits for admission among samples, and whether clients take turns.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tinkers::SessionContext;
use tinkers_core::{
    Admission, AdmissionRequest, Admitted, BoxFuture, ClientId, Clock, Error, InFlightPermit,
    Readmission, RouteClass, Timestamp,
};
use tinkers_dispatch::{ClassSnapshot, Limiter};

use crate::session::OtherSession;
use crate::watch::{Rule, Watch};

/// How many more requests of one client than of another, which waits and could go, are let through.
const MOST_AHEAD: u32 = 3;
/// How many later requests of a client are let through before an earlier one.
const MOST_LATER: u32 = 3;

/// The samples of a run that wait for admission. Clones share it.
#[derive(Debug, Clone)]
pub struct Turns(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    watch: Watch,
    is_checked: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    waiting: BTreeMap<Line, BTreeMap<u64, Waiting>>,
    /// By how much the second client is ahead of the first one, which waits.
    ahead: BTreeMap<(ClientId, ClientId), u32>,
    /// Grants that are not looked at yet, of one moment: they are collected in any order, and a refusal takes back the rest of them.
    grants: Vec<Grant>,
    at: Timestamp,
    /// How many refusals there were when that moment began.
    refusals: u64,
}

#[derive(Debug)]
struct Waiting {
    since: Timestamp,
    /// How many later requests of its line were let through.
    later: u32,
}

#[derive(Debug)]
struct Grant {
    line: Line,
    /// Where it stood among those of its line, unless it had a place from before a refusal.
    number: Option<u64>,
    /// Whether there was room for another request in flight.
    has_room: bool,
}

/// The requests of a client that have a permit in flight, or those that have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    client: ClientId,
    has_flight: bool,
}

impl Turns {
    /// Starts without waiters. Grants out of turn are reported to `watch`, unless they are not to be checked.
    pub fn new(watch: Watch, is_checked: bool) -> Self {
        Self(Arc::new(Inner {
            watch,
            is_checked,
            state: Mutex::default(),
        }))
    }

    /// The same session, whose admission is observed.
    pub(crate) fn observe(
        &self,
        session: Arc<dyn SessionContext>,
        limiter: &Arc<Limiter>,
    ) -> Arc<dyn SessionContext> {
        if !self.0.is_checked {
            return session;
        }
        let mut caller = session.caller().clone();
        caller.admission = Arc::new(Observed {
            inner: Arc::clone(&caller.admission),
            turns: self.clone(),
            time: Arc::clone(&caller.time),
            limiter: Arc::clone(limiter),
        });
        Arc::new(OtherSession {
            session,
            caller,
            spawner: None,
            repeats_blindly: false,
        })
    }

    /// A request has to wait from now on. Returns its place.
    fn waits(&self, line: Line, at: Timestamp, samples: &ClassSnapshot) -> Waits {
        let mut state = self.at(at, samples);
        state.next += 1;
        let number = state.next;
        let waiting = Waiting {
            since: at,
            later: 0,
        };
        state
            .waiting
            .entry(line)
            .or_default()
            .insert(number, waiting);
        Waits {
            turns: self.clone(),
            line,
            number,
        }
    }

    fn granted(&self, grant: Grant, at: Timestamp, samples: &ClassSnapshot) {
        self.at(at, samples).grants.push(grant);
    }

    fn leaves(&self, line: Line, number: u64) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if let Some(line_of) = state.waiting.get_mut(&line) {
            line_of.remove(&number);
            if line_of.is_empty() {
                state.waiting.remove(&line);
            }
        }
        if !state.waits(line.client) {
            state.ahead.retain(|(waits, _), _| *waits != line.client);
        }
    }

    /// The state at `at`, when what happened before has been looked at.
    fn at(&self, at: Timestamp, samples: &ClassSnapshot) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        let refusals = samples.counts.refusals;
        if state.at < at {
            let grants = std::mem::take(&mut state.grants);
            if state.refusals == refusals {
                grants.iter().for_each(|grant| state.pass(grant));
            }
            for grant in &grants {
                state.serve(grant.line.client);
            }
            for what in state.out_of_turn() {
                self.0.watch.report(Rule::Turns, what);
            }
            (state.at, state.refusals) = (at, refusals);
        }
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn waits(&self, client: ClientId) -> bool {
        let line = |has_flight| Line { client, has_flight };
        self.waiting.contains_key(&line(true)) || self.waiting.contains_key(&line(false))
    }

    /// Counts a grant for those that waited when it was given and still wait.
    fn pass(&mut self, grant: &Grant) {
        let Grant { line, has_room, .. } = *grant;
        let at = self.at;
        if let Some(number) = grant.number
            && let Some(earlier) = self.waiting.get_mut(&line)
        {
            for (_, waiting) in earlier.range_mut(..number) {
                waiting.later += u32::from(waiting.since < at);
            }
        }
        let passed = |(other, waiting): &(&Line, &BTreeMap<u64, Waiting>)| {
            other.client != line.client
                && (other.has_flight || !line.has_flight || has_room)
                && waiting.values().any(|waiting| waiting.since < at)
        };
        let passed = self.waiting.iter().filter(passed);
        let passed: BTreeSet<ClientId> = passed.map(|(other, _)| other.client).collect();
        for other in passed {
            *self.ahead.entry((other, line.client)).or_default() += 1;
        }
    }

    /// A request of `client` was let through: the others are ahead of it by one less.
    fn serve(&mut self, client: ClientId) {
        for ((waits, _), ahead) in &mut self.ahead {
            if *waits == client {
                *ahead = ahead.saturating_sub(1);
            }
        }
    }

    /// What is out of turn, each once.
    fn out_of_turn(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        for ((waits, served), ahead) in &mut self.ahead {
            if *ahead > MOST_AHEAD {
                found.push(format!(
                    "{ahead} more samples of {served:?} than of {waits:?}, which waits, were let through by {:?}",
                    self.at
                ));
                *ahead = 0;
            }
        }
        for (line, waiting) in &mut self.waiting {
            for (number, waiting) in waiting {
                if waiting.later > MOST_LATER {
                    found.push(format!(
                        "{} later samples of {:?} were let through before sample {number}, which waits, by {:?}",
                        waiting.later, line.client, self.at
                    ));
                    waiting.later = 0;
                }
            }
        }
        found
    }
}

/// A request that waits; dropped, it waits no more.
#[derive(Debug)]
struct Waits {
    turns: Turns,
    line: Line,
    number: u64,
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.turns.leaves(self.line, self.number);
    }
}

/// An admission that tells who waits.
#[derive(Debug)]
struct Observed {
    inner: Arc<dyn Admission>,
    turns: Turns,
    time: Arc<dyn Clock>,
    limiter: Arc<Limiter>,
}

impl Admission for Observed {
    fn admit(&self, ask: AdmissionRequest) -> BoxFuture<'_, Result<Admitted, Error>> {
        if ask.class != RouteClass::Sample || ask.is_nested {
            return self.inner.admit(ask);
        }
        let line = Line {
            client: ask.client,
            has_flight: ask.flight.as_ref().is_some_and(InFlightPermit::is_counted),
        };
        let is_new = ask.reentry == Readmission::New;
        let mut turn = self.inner.admit(ask);
        Box::pin(async move {
            let samples = || self.limiter.snapshot().sample;
            let mut waits = None;
            let admitted = poll_fn(|cx| {
                let polled = turn.as_mut().poll(cx);
                if polled.is_pending() && waits.is_none() {
                    waits = Some(self.turns.waits(line, self.time.now(), &samples()));
                }
                polled
            })
            .await;
            if admitted.is_ok() {
                let samples = samples();
                // A request that was admitted without waiting has the last number.
                let number = waits.as_ref().map_or(u64::MAX, |waits| waits.number);
                let grant = Grant {
                    line,
                    number: is_new.then_some(number),
                    has_room: samples.in_flight < samples.limit,
                };
                self.turns.granted(grant, self.time.now(), &samples);
            }
            admitted
        })
    }

    fn moved(&self, class: RouteClass) -> Option<Timestamp> {
        self.inner.moved(class)
    }

    fn closed_until(&self, class: RouteClass) -> Option<Timestamp> {
        self.inner.closed_until(class)
    }

    fn next_closure(&self, class: RouteClass) -> BoxFuture<'static, ()> {
        self.inner.next_closure(class)
    }
}
