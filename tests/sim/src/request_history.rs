//! The history of the requests of samples and models. At the end of a run, failed calls are checked
//! against it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tinkers::{ErrorKind, Sent};
use tinkers_core::{HttpRequest, HttpResponse, Phase, Timestamp};

use crate::call_log::{CallId, CallOutcome, CallRecord};
use crate::fault::Fault;
use crate::invariant::{Invariant, Violation};
use crate::op;
use crate::payload;
use crate::plan::{CallKind, Plan};
use crate::responses;

/// The minimum time for which the client must retry a failing call. The client retries for five
/// minutes. The last pause of up to half a minute and a margin are subtracted from this time.
const MIN_RETRY_TIME: Duration = Duration::from_secs(240);
/// An upper bound of the pause between two attempts of a call.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// The accepted difference between the times at which the network and the client observe the same
/// event.
const TOLERANCE: Duration = Duration::from_secs(10);

/// The history of the requests of a run, with which failed calls are checked at the end. Clones
/// share their state.
#[derive(Debug, Clone, Default)]
pub struct RequestHistory(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    samples: BTreeMap<CallId, SampleAttempts>,
    /// The calls that requested samples, by the request ids that the server has assigned to the
    /// samples.
    sample_by_request_id: BTreeMap<String, CallId>,
    /// The samples with at least one request that was affected by an injected fault or failed. Only
    /// these samples may fail because of a failed request.
    disturbed: BTreeSet<CallId>,
    /// The times at which the server has responded to a submission of any sample. At these times,
    /// the queue of samples in the rate limiter advances.
    sample_responses: Vec<Timestamp>,
    /// For each model, the times at which the server accepted a submission. At these times, the
    /// submission queue of the model advances.
    accepted: BTreeMap<String, Vec<Timestamp>>,
    /// For each 429 response that stopped the submission of samples, the time of the response and
    /// the time until which submissions were stopped.
    closures: Vec<(Timestamp, Timestamp)>,
}

/// The attempts to submit one sample.
#[derive(Debug)]
struct SampleAttempts {
    idempotency_key: Vec<u8>,
    first_sent_at: Timestamp,
    is_connection_error: bool,
}

impl RequestHistory {
    /// Returns the call that requested a sample, if this request submits the sample.
    pub fn sample_of(request: &HttpRequest) -> Option<CallId> {
        let body = op::uncompressed_body(request).ok()?;
        let body: serde_json::Value = serde_json::from_slice(&body).ok()?;
        let tokens = body["prompt"]["chunks"][0]["tokens"].as_array()?;
        let tokens: Vec<u64> = tokens
            .iter()
            .filter_map(serde_json::Value::as_u64)
            .collect();
        payload::call_of_prompt(&tokens)
    }

    /// Returns the call that requested the sample to which the server has assigned this request id.
    pub fn sample_by_request_id(&self, request_id: &str) -> Option<CallId> {
        self.lock().sample_by_request_id.get(request_id).copied()
    }

    /// Records that a request for a sample begins. The sample counts as disturbed by a fault until
    /// [`Self::request_succeeded`] is called. Returns whether the sample was undisturbed before.
    pub fn request_started(&self, call: CallId) -> bool {
        self.lock().disturbed.insert(call)
    }

    /// Records that a request for a sample has succeeded, so that the sample no longer counts as
    /// disturbed by a fault. Also records the request id that the response assigns to the sample.
    pub fn request_succeeded(&self, call: CallId, response: &HttpResponse) {
        let mut state = self.lock();
        state.disturbed.remove(&call);
        let request_id = responses::text_field(&response.body, "request_id");
        if !request_id.is_empty() {
            state.sample_by_request_id.insert(request_id, call);
        }
    }

    /// Records that a request which submits a sample is sent at the time `at`.
    pub fn sample_sent(&self, call: CallId, request: &HttpRequest, at: Timestamp) {
        let key = request.headers.get("x-idempotency-key");
        let key = key.map(|key| key.as_bytes().to_vec()).unwrap_or_default();
        let mut state = self.lock();
        let attempts = state.samples.entry(call).or_insert_with(|| SampleAttempts {
            idempotency_key: key.clone(),
            first_sent_at: at,
            is_connection_error: false,
        });
        if attempts.idempotency_key != key {
            // The server has lost the sample, so the client submits it again with a new key.
            (attempts.idempotency_key, attempts.first_sent_at) = (key, at);
        }
    }

    /// Records that an attempt to submit a sample has ended at the time `at`.
    pub fn attempt_ended(
        &self,
        call: CallId,
        at: Timestamp,
        is_connection_error: bool,
        has_response: bool,
    ) {
        let mut state = self.lock();
        if let Some(attempts) = state.samples.get_mut(&call) {
            attempts.is_connection_error = is_connection_error;
        }
        if has_response {
            state.sample_responses.push(at);
        }
    }

    /// Records that the server has accepted a submission for a model.
    pub fn submission_accepted(&self, model: String, at: Timestamp) {
        self.lock().accepted.entry(model).or_default().push(at);
    }

    /// Records that a 429 response at the time `at` has stopped the submission of samples until the
    /// time `until`.
    pub fn samples_closed(&self, at: Timestamp, until: Timestamp) {
        self.lock().closures.push((at, until));
    }

    /// Checks whether each failed call was allowed to fail. Called at the end of the run.
    pub fn check(&self, plan: &Plan, calls: &[(CallId, CallRecord)]) -> Vec<Violation> {
        let state = self.lock();
        let mut violations = Vec::new();
        for (call, record) in calls.iter().filter(|(_, record)| !record.is_awaited_late) {
            let Some((
                at,
                CallOutcome::Failed {
                    kind,
                    sent,
                    stalled_in,
                    ..
                },
            )) = &record.outcome
            else {
                continue;
            };
            if record.kind.is_sample() {
                violations.extend(state.check_isolation(*call, *kind, *sent, plan));
                violations.extend(match kind {
                    ErrorKind::Connection => state.check_retry_window(*call, record, *at),
                    ErrorKind::Timeout => state.check_deadline(*call, record, *at),
                    _ => None,
                });
            }
            if *stalled_in == Some(Phase::Admission) {
                let progress_deadline = plan.clients[record.client].progress_deadline;
                violations.extend(state.check_queue(*call, record, *at, progress_deadline));
            }
        }
        violations
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Checks a failed sample whose own requests have all succeeded. The kind of its error must be
    /// one that other samples cannot cause.
    fn check_isolation(
        &self,
        call: CallId,
        kind: ErrorKind,
        sent: Sent,
        plan: &Plan,
    ) -> Option<Violation> {
        let is_own_reason = match kind {
            ErrorKind::Closed
            | ErrorKind::SessionLost
            | ErrorKind::RateLimited
            | ErrorKind::Timeout
            | ErrorKind::Stalled
            | ErrorKind::OperationFailed => true,
            ErrorKind::Aborted => plan.rates.of(Fault::LogPanic).is_some(),
            _ => false,
        };
        let is_violation = !is_own_reason && !self.disturbed.contains(&call);
        is_violation.then(|| {
            let text = format!(
                "call {call} failed with {kind:?}, {sent:?}, although all its own requests succeeded"
            );
            Violation::new(Invariant::FailureIsolation, text)
        })
    }

    /// Checks a sample that failed because the client got no connection. The client must have
    /// retried the submission until the time limit for retries or the deadline of the call.
    fn check_retry_window(
        &self,
        call: CallId,
        record: &CallRecord,
        completed_at: Timestamp,
    ) -> Option<Violation> {
        let attempts = self.samples.get(&call)?;
        let retried_for = completed_at.since(attempts.first_sent_at);
        let has_time = |deadline: Timestamp| completed_at.after(MAX_PAUSE) < deadline;
        let is_violation = attempts.is_connection_error
            && retried_for < MIN_RETRY_TIME
            && record.deadline.is_none_or(has_time);
        is_violation.then(|| {
            let called_at = record.called_at;
            let text = format!(
                "call {call}, made at {called_at:?}, got no connection and failed {retried_for:?} after its first attempt"
            );
            Violation::new(Invariant::RetryWindow, text)
        })
    }

    /// Checks a sample that failed with a timeout before it was submitted. If a 429 response had
    /// stopped the submission of samples until after the deadline of the call, the sample should
    /// have failed at once.
    fn check_deadline(
        &self,
        call: CallId,
        record: &CallRecord,
        completed_at: Timestamp,
    ) -> Option<Violation> {
        let deadline = record.deadline?;
        if self.samples.contains_key(&call) {
            return None;
        }
        let is_violation = |(at, until): &&(Timestamp, Timestamp)| {
            at.after(TOLERANCE) < completed_at && *until > deadline
        };
        let (at, until) = self.closures.iter().find(is_violation)?;
        let text = format!(
            "call {call} waited for its deadline, {deadline:?}, although its gate was closed at {at:?} until {until:?}"
        );
        Some(Violation::new(Invariant::AdmissionDeadline, text))
    }

    /// Checks a call that failed for lack of progress while it waited in a queue. The queue must
    /// not have advanced during the progress deadline before the failure.
    fn check_queue(
        &self,
        call: CallId,
        record: &CallRecord,
        completed_at: Timestamp,
        progress_deadline: Duration,
    ) -> Option<Violation> {
        let progress = match &record.model {
            Some(model) => self.accepted.get(model)?,
            None if record.kind.is_sample() && !self.samples.contains_key(&call) => {
                &self.sample_responses
            }
            None => return None,
        };
        let start = completed_at
            .since_origin()
            .saturating_sub(progress_deadline);
        let start = Timestamp::from_origin(start).after(TOLERANCE);
        let mut progress = progress.iter();
        let at = progress.find(|at| start < **at && **at < completed_at)?;
        let kind = record.kind;
        let text = format!(
            "call {call} ({kind:?}) stalled at {completed_at:?}, although its queue advanced at {at:?}, within {progress_deadline:?}"
        );
        Some(Violation::new(Invariant::QueueProgress, text))
    }
}

impl CallKind {
    const fn is_sample(self) -> bool {
        matches!(self, Self::Sample(_))
    }
}
