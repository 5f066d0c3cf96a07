//! What became of calls that waited: in a queue, at a gate, for a connection.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tinkers::{ErrorKind, Sent};
use tinkers_core::{HttpRequest, HttpResponse, Phase, Timestamp};

use crate::answers;
use crate::book::{CallId, Entry, Outcome};
use crate::fault::Kind;
use crate::ledger;
use crate::op;
use crate::plan::{Plan, Verb};
use crate::watch::{Rule, Violation};

/// A call is repeated for five minutes from its first attempt on. The last pause, of half a minute, must end before that.
const RETRIED_FOR: Duration = Duration::from_secs(240);
/// No pause between two attempts is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// What is said of a call and what the network saw may be so far apart.
const SLACK: Duration = Duration::from_secs(10);

/// What the network saw of samples. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Waits(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    samples: BTreeMap<CallId, Sample>,
    /// The sample that the server gave a request id.
    sample_of: BTreeMap<String, CallId>,
    /// Samples of which some request was struck, or not answered with a success.
    troubled: BTreeSet<CallId>,
    /// When the server answered one.
    answered: Vec<Timestamp>,
    /// When the server accepted a submission for a model.
    accepted: BTreeMap<String, Vec<Timestamp>>,
    /// When a refusal closed the class of samples, and until when.
    closed: Vec<(Timestamp, Timestamp)>,
}

/// The attempts of one submission.
#[derive(Debug)]
struct Sample {
    key: Vec<u8>,
    first: Timestamp,
    found_no_connection: bool,
}

impl Waits {
    /// Which sample a submission is of.
    pub fn sample_of(request: &HttpRequest) -> Option<CallId> {
        let body = op::plain(request).ok()?;
        let body: serde_json::Value = serde_json::from_slice(&body).ok()?;
        let tokens = body["prompt"]["chunks"][0]["tokens"].as_array()?;
        let tokens: Vec<u64> = tokens
            .iter()
            .filter_map(serde_json::Value::as_u64)
            .collect();
        ledger::call_of_prompt(&tokens)
    }

    /// Which sample a poll for one result is of.
    pub fn sample_polled(&self, request_id: &str) -> Option<CallId> {
        self.lock().sample_of.get(request_id).copied()
    }

    /// A request of a sample is under way. Whether it comes to a good end is not known before that is told by [`Waits::served`].
    pub fn begins(&self, call: CallId) -> bool {
        !self.lock().troubled.insert(call)
    }

    /// The request that began was answered with a success, and nothing had gone wrong before.
    pub fn served(&self, call: CallId, answer: &HttpResponse) {
        let mut state = self.lock();
        state.troubled.remove(&call);
        let id = answers::text_of(&answer.body, "request_id");
        if !id.is_empty() {
            state.sample_of.insert(id, call);
        }
    }

    /// A sample leaves.
    pub fn leaves(&self, call: CallId, request: &HttpRequest, at: Timestamp) {
        let key = request.headers.get("x-idempotency-key");
        let key = key.map(|key| key.as_bytes().to_vec()).unwrap_or_default();
        let mut state = self.lock();
        let sample = state.samples.entry(call).or_insert_with(|| Sample {
            key: key.clone(),
            first: at,
            found_no_connection: false,
        });
        if sample.key != key {
            // Sampled anew, since the server lost the first one.
            (sample.key, sample.first) = (key, at);
        }
    }

    /// An attempt has ended, with an answer or not.
    pub fn ended(&self, call: CallId, at: Timestamp, found_no_connection: bool, is_answered: bool) {
        let mut state = self.lock();
        if let Some(sample) = state.samples.get_mut(&call) {
            sample.found_no_connection = found_no_connection;
        }
        if is_answered {
            state.answered.push(at);
        }
    }

    /// The server has accepted a submission for a model.
    pub fn accepted(&self, model: String, at: Timestamp) {
        self.lock().accepted.entry(model).or_default().push(at);
    }

    /// A refusal closes the class of samples.
    pub fn closed(&self, at: Timestamp, until: Timestamp) {
        self.lock().closed.push((at, until));
    }

    /// Looks at all calls when the run is over.
    pub fn check(&self, plan: &Plan, calls: &[(CallId, Entry)]) -> Vec<Violation> {
        let state = self.lock();
        let mut found = Vec::new();
        for (call, entry) in calls.iter().filter(|(_, entry)| !entry.is_late) {
            let Some((
                ended,
                Outcome::Failed {
                    kind,
                    sent,
                    stalled_in,
                    ..
                },
            )) = &entry.outcome
            else {
                continue;
            };
            let ended = *ended;
            if entry.verb.is_sample() {
                found.extend(state.is_own(*call, *kind, *sent, plan));
                let broken = match kind {
                    ErrorKind::Connection => state.retried(*call, entry, ended),
                    ErrorKind::Timeout => state.fails_at_once(*call, entry, ended),
                    _ => None,
                };
                found.extend(broken);
            }
            if *stalled_in == Some(Phase::Admission) {
                let limit = plan.clients[entry.client].progress_deadline;
                let since = Timestamp::from_origin(ended.since_origin().saturating_sub(limit));
                let (from, to) = (since.after(SLACK), ended);
                let moved = match &entry.model {
                    None if entry.verb.is_sample() && !state.samples.contains_key(call) => {
                        Some(&state.answered)
                    }
                    None => None,
                    Some(model) => state.accepted.get(model),
                };
                let mut moved = moved.into_iter().flatten().copied();
                if let Some(at) = moved.find(|at| from < *at && *at < to) {
                    let what = format!(
                        "call {call} ({:?}) counts as stalled at {ended:?}, and its queue moved at {at:?}, within {limit:?}",
                        entry.verb
                    );
                    found.push(broken(Rule::Queue, what));
                }
            }
        }
        found
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A sample whose own requests were all served fails for a reason of its own.
    fn is_own(&self, call: CallId, kind: ErrorKind, sent: Sent, plan: &Plan) -> Option<Violation> {
        let may_panic = plan.mix.0.iter().any(|(kind, _)| *kind == Kind::LogPanics);
        let has_reason = match kind {
            ErrorKind::Closed
            | ErrorKind::SessionLost
            | ErrorKind::RateLimited
            | ErrorKind::Timeout
            | ErrorKind::Stalled
            | ErrorKind::OperationFailed => true,
            ErrorKind::Aborted => may_panic,
            _ => false,
        };
        let is_lost = !has_reason && !self.troubled.contains(&call);
        is_lost.then(|| {
            let what = format!(
                "call {call} ended in {kind:?}, {sent:?}, and none of its own requests had failed"
            );
            broken(Rule::Waiters, what)
        })
    }

    /// A call that found no connection is repeated, however long it had waited before.
    fn retried(&self, call: CallId, entry: &Entry, ended: Timestamp) -> Option<Violation> {
        let sample = self.samples.get(&call)?;
        let tried_for = ended.since(sample.first);
        let has_time = |deadline: Timestamp| ended.after(LONGEST_PAUSE) < deadline;
        let gave_up = sample.found_no_connection
            && tried_for < RETRIED_FOR
            && entry.deadline.is_none_or(has_time);
        gave_up.then(|| {
            let what = format!("call {call} found no connection and gave up {tried_for:?} after its first attempt, called at {:?}", entry.called_at);
            broken(Rule::Retries, what)
        })
    }

    /// A call does not wait for its deadline at a gate that opens after it.
    fn fails_at_once(&self, call: CallId, entry: &Entry, ended: Timestamp) -> Option<Violation> {
        let deadline = entry.deadline?;
        let never_left = !self.samples.contains_key(&call);
        let beyond = |(heard, until): &&(Timestamp, Timestamp)| {
            heard.after(SLACK) < ended && *until > deadline
        };
        let closed = self.closed.iter().find(beyond).filter(|_| never_left);
        closed.map(|(heard, until)| {
            let what = format!("call {call} waited for its deadline, {deadline:?}, though its gate was closed at {heard:?} until {until:?}");
            broken(Rule::Deadline, what)
        })
    }
}

fn broken(rule: Rule, what: String) -> Violation {
    Violation { rule, what }
}

impl Verb {
    const fn is_sample(self) -> bool {
        matches!(self, Self::Sample(_))
    }
}
