//! Transports shared polls, and checks the rate of the polls and their acknowledgements.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tinkers::wire::{Completions, PollTarget, RetrieveFutures};
use tinkers_core::{Clock, HttpRequest, HttpResponse, Timestamp, TransportErrorKind};

use crate::control::Control;
use crate::control::shared_poll::PollTask;
use crate::fault::Fault;
use crate::invariant::Invariant;
use crate::monitor::Monitor;
use crate::network::{Network, Response};
use crate::op::{self, Op};
use crate::responses::{self, with_stale_cursor};

/// The maximum number of shared polls (polls for all results of a sampling client) that a client
/// may send within a second in which no result arrives. The pauses between such polls start at 20
/// ms and double.
const MAX_POLLS_PER_SECOND: usize = 14;
/// The number of additional shared polls (polls for all results of a sampling client) that a client
/// may send within a second for each new result. A new result resets the pauses between polls.
const POLLS_PER_RESULT: usize = 4;
const SECOND: Duration = Duration::from_secs(1);
/// The maximum number of consecutive redundant acknowledgements of received results by a client. An
/// acknowledgement is redundant if it succeeds, repeats only request ids that the client has
/// acknowledged before, and its response contains no new result.
const MAX_REDUNDANT_ACKS: u32 = 6;

/// A monitor that checks the rates of the shared polls (polls for all results of a sampling client)
/// and of their acknowledgements in a run.
#[derive(Debug)]
pub struct SharedPollMonitor {
    monitor: Monitor,
    clients: Mutex<BTreeMap<Target, PollHistory>>,
}

/// The sampling client for which a shared poll asks for results: the id of the sampling session,
/// and the number of the client in this session.
type Target = (String, u64);

#[derive(Debug, Default)]
struct PollHistory {
    /// The times within the last second at which the client sent shared polls.
    sent: VecDeque<Timestamp>,
    /// The times within the last second at which the client received a new result.
    new_results: VecDeque<Timestamp>,
    received: BTreeSet<String>,
    acknowledged: BTreeSet<String>,
    redundant_acks: u32,
    is_reported: bool,
}

/// The decoded request of a shared poll, which asks for all results of a sampling client.
#[derive(Debug)]
pub struct SharedPoll {
    target: Target,
    acknowledged: Vec<String>,
    /// The cursor in the request body, up to which the client has received results.
    pub cursor: i64,
    /// Whether the poll only acknowledges results that the client has received. Such a poll has a
    /// timeout of zero.
    pub is_acknowledgement: bool,
}

impl SharedPoll {
    /// Decodes the request body of a shared poll. Returns `None` if the body is not valid.
    pub fn decode(request: &HttpRequest) -> Option<Self> {
        let body = op::uncompressed_body(request).ok()?;
        let body: RetrieveFutures = serde_json::from_slice(&body).ok()?;
        let PollTarget {
            sampling_session_id,
            cloned_sampler_id,
            ..
        } = body.target;
        Some(Self {
            target: (sampling_session_id, cloned_sampler_id),
            acknowledged: body.retrieved_request_ids,
            cursor: body.prev_cursor,
            is_acknowledgement: body.timeout == Some(0.0),
        })
    }
}

impl SharedPollMonitor {
    /// Creates a monitor that reports violations to `monitor`.
    pub fn new(monitor: Monitor) -> Self {
        Self {
            monitor,
            clients: Mutex::default(),
        }
    }

    /// Records that a client sends a shared poll, and checks the rate of polls.
    pub fn poll_sent(&self, poll: &SharedPoll, at: Timestamp) {
        self.check(poll, |history| {
            history.sent.push_back(at);
            for times in [&mut history.sent, &mut history.new_results] {
                while times
                    .front()
                    .is_some_and(|first| at.since(*first) >= SECOND)
                {
                    times.pop_front();
                }
            }
            let max = MAX_POLLS_PER_SECOND + POLLS_PER_RESULT * history.new_results.len();
            let is_violation = history.sent.len() > max;
            is_violation.then(|| format!("more than {max} shared polls within a second"))
        });
    }

    /// Records that a client receives the response to a shared poll, and checks that the client
    /// does not repeat the same acknowledgements too often.
    pub fn poll_completed(&self, poll: &SharedPoll, response: &HttpResponse, at: Timestamp) {
        if !response.status.is_success() {
            return;
        }
        let Ok(body) = Completions::read(&response.body) else {
            return;
        };
        self.check(poll, |history| {
            let mut is_new = false;
            for completion in body.completions {
                if history.received.insert(completion.request_id) {
                    history.new_results.push_back(at);
                    is_new = true;
                }
            }
            for id in &poll.acknowledged {
                is_new |= history.acknowledged.insert(id.clone());
            }
            history.redundant_acks = match poll.is_acknowledgement && !is_new {
                true => history.redundant_acks + 1,
                false => 0,
            };
            let is_violation = history.redundant_acks > MAX_REDUNDANT_ACKS;
            is_violation.then(|| {
                format!("more than {MAX_REDUNDANT_ACKS} consecutive acknowledgements without a new request id")
            })
        });
    }

    /// Updates the poll history of the client that sent `poll` with the closure `update`. Reports
    /// the violation that `update` returns, but at most one violation for each client.
    fn check(&self, poll: &SharedPoll, update: impl FnOnce(&mut PollHistory) -> Option<String>) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let history = clients.entry(poll.target.clone()).or_default();
        if let Some(text) = update(history)
            && !std::mem::replace(&mut history.is_reported, true)
        {
            let (sampler, client) = &poll.target;
            let text = format!("client {client} of {sampler}: {text}");
            self.monitor.report(Invariant::SharedPollRate, text);
        }
    }
}

/// The maximum number of retries without a pause that [`Control::SpinningAcks`] makes after a
/// failed acknowledgement.
const SPINS: u32 = 100;

impl Network {
    /// Transports a shared poll to the server and its response back to the client. Applies the bug
    /// of the negative control, if it concerns shared polls.
    pub(crate) async fn transport_shared_poll(
        &self,
        poll: &SharedPoll,
        fault: Option<Fault>,
        request: HttpRequest,
    ) -> Response {
        let task = PollTask::current();
        if let Some(task) = &task {
            task.mark_shared_poll();
        }
        let retry = (self.control == Some(Control::SpinningAcks)).then(|| request.clone());
        let mut response = match fault {
            Some(Fault::StaleCursor) => {
                let response = self.transport(Op::SharedPoll, None, request).await;
                response.map(|response| with_stale_cursor(response, poll.cursor, &self.rng))
            }
            fault => self.transport(Op::SharedPoll, fault, request).await,
        };
        let now = self.clock.now();
        if let Ok(response) = &response {
            self.shared_polls.poll_completed(poll, response, now);
        }
        match self.control {
            Some(Control::SharedPollEnds) if is_unexpected(&response) => {
                task.iter().for_each(|task| task.abort());
            }
            Some(Control::EndlessAcks) => {
                if let Ok(response) = &mut response
                    && poll.is_acknowledgement
                {
                    set_unknown_completion(response, now);
                }
            }
            _ => {}
        }
        let is_valid = |response: &HttpResponse| Completions::read(&response.body).is_ok();
        if let Some(retry) = retry.filter(|_| poll.is_acknowledgement) {
            for _ in 0..SPINS {
                if response.as_ref().is_ok_and(is_valid) {
                    break;
                }
                self.shared_polls.poll_sent(poll, self.clock.now());
                response = self.transport(Op::SharedPoll, fault, retry.clone()).await;
            }
        }
        response
    }
}

/// Returns whether a response to a shared poll is one that no real server sends.
fn is_unexpected(response: &Response) -> bool {
    match response {
        Ok(response) if response.status.is_success() => Completions::read(&response.body).is_err(),
        Ok(response) => {
            let is_expected = matches!(response.status.as_u16(), 402 | 408 | 429);
            response.status.is_client_error() && !is_expected
        }
        Err(error) => matches!(
            error.kind,
            TransportErrorKind::Tls | TransportErrorKind::Decode | TransportErrorKind::Redirect
        ),
    }
}

/// Replaces the results in the response to a shared poll by a result of a request that the client
/// has never made.
fn set_unknown_completion(response: &mut HttpResponse, now: Timestamp) {
    responses::edit_body(response, |body| {
        let cursor = body.get("cursor").and_then(Value::as_i64).unwrap_or(0);
        let id = format!("unknown-{}", now.since_origin().as_nanos());
        body.insert("completions".to_owned(), json!([{ "request_id": id }]));
        body.insert("cursor".to_owned(), json!(cursor + 1));
    });
}
