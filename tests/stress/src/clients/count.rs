//! What was called and what came of it, counted exactly, and how long it took.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use tinkers::transport::{
    BoxFuture, HttpRequest, HttpResponse, RouteClass, Transport, TransportError,
};
use tinkers::{Error, Sent};

use super::engine::token;
use super::ledger::{Fate, Ledger};
use crate::watch::Stopwatch;

/// What is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verb {
    Sample,
    Pass,
    Step,
    /// A session is opened, or a model or a sampler made.
    SetUp,
}

impl Verb {
    pub(crate) const ALL: [Self; 4] = [Self::Sample, Self::Pass, Self::Step, Self::SetUp];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sample => "sample",
            Self::Pass => "forward_backward",
            Self::Step => "optim_step",
            Self::SetUp => "set-up",
        }
    }
}

/// How calls of a kind ended.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ended {
    pub(crate) called: u64,
    pub(crate) ok: u64,
    /// Failed, and known not to have reached the server.
    pub(crate) not_sent: u64,
    /// Failed otherwise: it may have been applied.
    pub(crate) other: u64,
    /// Ended well, with what is not its own.
    pub(crate) wrong: u64,
    /// Its caller went away.
    pub(crate) given_up: u64,
}

impl Ended {
    pub(crate) const fn open(&self) -> u64 {
        let ended = self.ok + self.not_sent + self.other + self.wrong + self.given_up;
        self.called.saturating_sub(ended)
    }

    const fn add(&mut self, fate: Fate) {
        match fate {
            Fate::Open => {}
            Fate::Well => self.ok += 1,
            Fate::Wrong => self.wrong += 1,
            Fate::NotSent => self.not_sent += 1,
            Fate::Unknown => self.other += 1,
            Fate::GivenUp => self.given_up += 1,
        }
    }
}

/// Parts of the time of a sample, in microseconds.
#[derive(Debug, Clone)]
pub(crate) struct Times {
    /// From the call to its first request.
    pub(crate) queueing: Histogram<u64>,
    /// From a request to its answer.
    pub(crate) submission: Histogram<u64>,
    /// From the call to the result.
    pub(crate) completion: Histogram<u64>,
}

/// An hour: what takes longer counts as that long.
const LONGEST: u64 = 3600 * 1_000_000;

impl Default for Times {
    fn default() -> Self {
        let empty = || Histogram::new_with_bounds(1, LONGEST, 3).expect("bounds that fit");
        Self {
            queueing: empty(),
            submission: empty(),
            completion: empty(),
        }
    }
}

/// The counts of a run. Clones are the same counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    numbers: AtomicU64,
    done: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    ledger: Ledger,
    ended: BTreeMap<Verb, Ended>,
    failures: BTreeMap<String, u64>,
    times: Times,
    /// When samples were called whose first request has not left.
    queued: BTreeMap<u64, Stopwatch>,
}

/// A call under way.
pub(crate) struct Call {
    verb: Verb,
    /// No other call of this run has it; 0 for a set-up, of which the server sees no number.
    pub(crate) number: u64,
    watch: Stopwatch,
}

impl Counts {
    /// How many calls have ended well so far, set-up left out.
    pub(crate) fn done(&self) -> u64 {
        self.0.done.load(Ordering::Relaxed)
    }

    pub(crate) fn call(&self, verb: Verb) -> Call {
        let watch = Stopwatch::start();
        let mut state = self.lock();
        state.ended.entry(verb).or_default().called += 1;
        let number = match verb {
            Verb::SetUp => 0,
            _ => self.0.numbers.fetch_add(1, Ordering::Relaxed) + 1,
        };
        if number > 0 {
            state.ledger.called(number);
        }
        if verb == Verb::Sample {
            state.queued.insert(number, watch);
        }
        Call {
            verb,
            number,
            watch,
        }
    }

    /// It ended well, with its own result or not, or it failed.
    pub(crate) fn ended(&self, call: &Call, how: Result<bool, &Error>) {
        let fate = match how {
            Ok(true) => Fate::Well,
            Ok(false) => Fate::Wrong,
            Err(error) if error.sent() == Sent::NotSent => Fate::NotSent,
            Err(_) => Fate::Unknown,
        };
        if let Err(error) = how {
            let kind = format!("{:?} {:?}", error.kind(), error.sent());
            *self.lock().failures.entry(kind).or_default() += 1;
        }
        self.note(call, fate);
    }

    /// Its caller goes away.
    pub(crate) fn given_up(&self, call: &Call) {
        self.note(call, Fate::GivenUp);
    }

    fn note(&self, call: &Call, fate: Fate) {
        let mut state = self.lock();
        state.ended.entry(call.verb).or_default().add(fate);
        if call.number > 0 {
            state.ledger.ended(call.number, fate);
        }
        if call.verb == Verb::Sample {
            state.queued.remove(&call.number);
            if fate == Fate::Well {
                let took = micros(call.watch.elapsed());
                state.times.completion.saturating_record(took);
            }
        }
        if fate == Fate::Well && call.verb != Verb::SetUp {
            self.0.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What does not fit with how often the server has applied each call.
    pub(crate) fn against(&self, applied: &BTreeMap<u64, u64>) -> Vec<String> {
        self.lock().ledger.against(applied)
    }

    pub(crate) fn of(&self, verb: Verb) -> Ended {
        self.lock().ended.get(&verb).copied().unwrap_or_default()
    }

    pub(crate) fn failures(&self) -> BTreeMap<String, u64> {
        self.lock().failures.clone()
    }

    pub(crate) fn times(&self) -> Times {
        self.lock().times.clone()
    }

    /// A layer that sees when samples leave and are answered.
    pub(crate) fn layer(&self, below: Arc<dyn Transport>) -> Arc<dyn Transport> {
        Arc::new(Layer {
            counts: self.clone(),
            below,
        })
    }

    fn leaves(&self, number: u64) {
        let mut state = self.lock();
        if let Some(watch) = state.queued.remove(&number) {
            let waited = micros(watch.elapsed());
            state.times.queueing.saturating_record(waited);
        }
    }

    fn answered(&self, after: Duration) {
        let took = micros(after);
        self.lock().times.submission.saturating_record(took);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[derive(Debug)]
struct Layer {
    counts: Counts,
    below: Arc<dyn Transport>,
}

impl Transport for Layer {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        if request.class != RouteClass::Sample {
            return self.below.send(request);
        }
        Box::pin(async move {
            if let Some(number) = number_of(&request.body) {
                self.counts.leaves(number);
            }
            let watch = Stopwatch::start();
            let answer = self.below.send(request).await;
            if answer
                .as_ref()
                .is_ok_and(|answer| answer.status.is_success())
            {
                self.counts.answered(watch.elapsed());
            }
            answer
        })
    }
}

/// The prompt of a sample, which bears its number.
pub(crate) fn prompt(number: u64) -> Vec<u32> {
    vec![1, 2, 3, token(number)]
}

fn number_of(body: &[u8]) -> Option<u64> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    body["prompt"]["chunks"][0]["tokens"]
        .as_array()?
        .last()?
        .as_u64()
}
