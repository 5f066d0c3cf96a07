//! Exact counts of calls by their outcome, and latencies of samples.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use tinkers::transport::{
    BoxFuture, HttpRequest, HttpResponse, RouteClass, Transport, TransportError,
};
use tinkers::{Error, Sent};

use super::call_log::{CallLog, CallOutcome};
use super::engine::token;
use crate::stopwatch::Stopwatch;

/// A kind of API call. The outcomes of each kind are counted separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Sample,
    Pass,
    Step,
    /// The creation of a session, a model or a sampling client.
    Setup,
}

impl Operation {
    pub(crate) const ALL: [Self; 4] = [Self::Sample, Self::Pass, Self::Step, Self::Setup];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sample => "sample",
            Self::Pass => "forward_backward",
            Self::Step => "optim_step",
            Self::Setup => "setup",
        }
    }
}

/// The numbers of API calls of one kind (such as samples), by the outcome of the call.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct OutcomeCounts {
    pub(crate) called: u64,
    pub(crate) ok: u64,
    /// The number of calls that failed before their request was sent.
    pub(crate) not_sent: u64,
    /// The number of calls that failed after their request may have been sent. The server may have
    /// applied these calls.
    pub(crate) other: u64,
    /// The number of calls that returned the result of another call, which is a violation.
    pub(crate) wrong: u64,
    /// The number of calls that the caller cancelled.
    pub(crate) cancelled: u64,
}

impl OutcomeCounts {
    pub(crate) const fn pending(&self) -> u64 {
        let ended = self.ok + self.not_sent + self.other + self.wrong + self.cancelled;
        self.called.saturating_sub(ended)
    }

    const fn add(&mut self, outcome: CallOutcome) {
        match outcome {
            CallOutcome::Pending => {}
            CallOutcome::Succeeded => self.ok += 1,
            CallOutcome::WrongResult => self.wrong += 1,
            CallOutcome::NotSent => self.not_sent += 1,
            CallOutcome::Unknown => self.other += 1,
            CallOutcome::Cancelled => self.cancelled += 1,
        }
    }
}

/// The latencies of samples, in microseconds.
#[derive(Debug, Clone)]
pub(crate) struct Times {
    /// The time from the start of a sample call to the sending of its first request, in
    /// microseconds.
    pub(crate) queueing: Histogram<u64>,
    /// The time from the sending of a request that submits a sample to the response to this
    /// request, in microseconds.
    pub(crate) submission: Histogram<u64>,
    /// The time from the start of a sample call to its result, in microseconds.
    pub(crate) completion: Histogram<u64>,
}

/// The largest latency that can be recorded: one hour, in microseconds. Larger latencies are
/// recorded as one hour.
const MAX_LATENCY: u64 = 3600 * 1_000_000;

impl Default for Times {
    fn default() -> Self {
        let empty = || Histogram::new_with_bounds(1, MAX_LATENCY, 3).expect("valid bounds");
        Self {
            queueing: empty(),
            submission: empty(),
            completion: empty(),
        }
    }
}

/// The numbers of API calls and their latencies in a run. Clones share their state.
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
    call_log: CallLog,
    ended: BTreeMap<Operation, OutcomeCounts>,
    failures: BTreeMap<String, u64>,
    times: Times,
    /// The sample calls whose first request has not been sent yet: for each call number, a
    /// stopwatch that measures the time since the start of the call.
    queued: BTreeMap<u64, Stopwatch>,
}

/// An API call that a client has made and whose outcome has not been recorded yet.
pub(crate) struct Call {
    operation: Operation,
    /// The number of the call, which its request contains. It is unique in the run. Setup calls,
    /// such as the creation of a model, have the number 0.
    pub(crate) number: u64,
    watch: Stopwatch,
}

impl Counts {
    /// Returns the number of calls that have succeeded so far. Does not count setup calls, such as
    /// the creation of a model.
    pub(crate) fn done(&self) -> u64 {
        self.0.done.load(Ordering::Relaxed)
    }

    pub(crate) fn call(&self, operation: Operation) -> Call {
        let watch = Stopwatch::start();
        let mut state = self.lock();
        state.ended.entry(operation).or_default().called += 1;
        let number = match operation {
            Operation::Setup => 0,
            _ => self.0.numbers.fetch_add(1, Ordering::Relaxed) + 1,
        };
        if number > 0 {
            state.call_log.called(number);
        }
        if operation == Operation::Sample {
            state.queued.insert(number, watch);
        }
        Call {
            operation,
            number,
            watch,
        }
    }

    /// Records the outcome of a call. `result` is `Ok(true)` if the call returned the result of its
    /// own request, and `Ok(false)` if it returned the result of another call.
    pub(crate) fn ended(&self, call: &Call, result: Result<bool, &Error>) {
        let outcome = match result {
            Ok(true) => CallOutcome::Succeeded,
            Ok(false) => CallOutcome::WrongResult,
            Err(error) if error.sent() == Sent::NotSent => CallOutcome::NotSent,
            Err(_) => CallOutcome::Unknown,
        };
        if let Err(error) = result {
            let kind = format!("{:?} {:?}", error.kind(), error.sent());
            *self.lock().failures.entry(kind).or_default() += 1;
        }
        self.note(call, outcome);
    }

    /// Records that the caller cancelled a call.
    pub(crate) fn cancelled(&self, call: &Call) {
        self.note(call, CallOutcome::Cancelled);
    }

    fn note(&self, call: &Call, outcome: CallOutcome) {
        let mut state = self.lock();
        state.ended.entry(call.operation).or_default().add(outcome);
        if call.number > 0 {
            state.call_log.ended(call.number, outcome);
        }
        if call.operation == Operation::Sample {
            state.queued.remove(&call.number);
            if outcome == CallOutcome::Succeeded {
                let took = micros(call.watch.elapsed());
                state.times.completion.saturating_record(took);
            }
        }
        if outcome == CallOutcome::Succeeded && call.operation != Operation::Setup {
            self.0.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Describes contradictions, such as a successful call that the server has not applied.
    /// `applied` is the number of times that the server applied each call, by call number.
    pub(crate) fn contradictions(&self, applied: &BTreeMap<u64, u64>) -> Vec<String> {
        self.lock().call_log.contradictions(applied)
    }

    pub(crate) fn of(&self, operation: Operation) -> OutcomeCounts {
        self.lock()
            .ended
            .get(&operation)
            .copied()
            .unwrap_or_default()
    }

    pub(crate) fn failures(&self) -> BTreeMap<String, u64> {
        self.lock().failures.clone()
    }

    pub(crate) fn times(&self) -> Times {
        self.lock().times.clone()
    }

    /// Returns a transport that sends requests through the transport `below` and measures the
    /// latencies of samples.
    pub(crate) fn layer(&self, below: Arc<dyn Transport>) -> Arc<dyn Transport> {
        Arc::new(Layer {
            counts: self.clone(),
            below,
        })
    }

    fn sample_sent(&self, number: u64) {
        let mut state = self.lock();
        if let Some(watch) = state.queued.remove(&number) {
            let waited = micros(watch.elapsed());
            state.times.queueing.saturating_record(waited);
        }
    }

    fn sample_accepted(&self, after: Duration) {
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
                self.counts.sample_sent(number);
            }
            let watch = Stopwatch::start();
            let response = self.below.send(request).await;
            if response
                .as_ref()
                .is_ok_and(|response| response.status.is_success())
            {
                self.counts.sample_accepted(watch.elapsed());
            }
            response
        })
    }
}

/// Returns the prompt of the sample with the call number `number`. The last token of the prompt
/// identifies the call.
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
