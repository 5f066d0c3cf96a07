//! Sends the requests of one submission, tracks their states, and reports the outcome to the caller.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tinkers_core::user_code::catch_panic;
use tinkers_core::{Error, ErrorKind, RecoveredError, Result, Sent};

use crate::model_failure::{ModelFailure, Recovery};
use crate::recover_save;
use crate::refusal::leaves_number_free;
use crate::submission_queue::{OutcomeSender, Submission, SubmissionQueue};
use crate::submit::{Outgoing, Submitted};

/// The state of one request of a training call while the call is being sent.
#[derive(Debug)]
enum RequestState {
    NeverSent,
    InFlight,
    Accepted(Submitted),
    /// The server accepted the request, but its result is not retrieved, because another request of the same training call has failed.
    Abandoned,
    /// The server certainly did not apply the request, so its sequence number can be used again.
    Refused,
    /// The outcome of the request is unknown: the server may have applied it.
    Unknown,
}

/// A sender of the requests of one training call. It reports to the caller whether the server has accepted all of these requests.
///
/// The first failure is reported to the caller at once. All later calls of the model fail as well if the call changes the model, or if the
/// server may have applied a part of the call. Requests that are still in flight are awaited, since their outcomes decide whether the model may
/// accept calls again.
pub(crate) struct Delivery {
    queue: Arc<SubmissionQueue>,
    submission: Arc<Submission>,
    /// The channel through which the outcome of the call is sent to the caller; `None` after the outcome was sent.
    reply: Option<OutcomeSender>,
    states: Vec<RequestState>,
    /// The error of a failed call that does not change the model. The error is stored here until it is known whether the sequence numbers of the
    /// call can be used again. If they cannot, all later calls fail because of this error.
    undecided: Option<Error>,
}

impl Delivery {
    pub(crate) fn new(
        queue: &Arc<SubmissionQueue>,
        submission: Submission,
        reply: OutcomeSender,
    ) -> Self {
        let states = submission
            .requests
            .iter()
            .map(|_| RequestState::NeverSent)
            .collect();
        Self {
            queue: Arc::clone(queue),
            submission: Arc::new(submission),
            reply: Some(reply),
            states,
            undecided: None,
        }
    }

    /// Sends all requests, and waits until each of them is accepted or has failed.
    pub(crate) async fn run(&mut self) {
        let count = self.submission.requests.len();
        if self.queue.session().config().parallel_fwdbwd_chunks {
            // The server starts with the lowest number, so this request is sent last: then the server can process all chunks together,
            // and if it rejects another chunk, a server that keeps the order has applied nothing.
            self.send_together(1, count).await;
            if !self.has_failed() {
                self.send_together(0, 1).await;
            }
        } else {
            for index in 0..count {
                if !self.has_failed() {
                    self.send_together(index, index + 1).await;
                }
            }
        }
        if !self.has_failed() {
            self.report_success();
        } else if let Some(cause) = self.undecided.take() {
            match self.recovery() {
                Recovery::From(_) => self.queue.free_numbers(count as u64),
                recovery => self.queue.fail_model(ModelFailure { cause, recovery }),
            }
        } else {
            self.queue.decide_recovery(self.recovery());
        }
    }

    /// Fails the training call and all later calls of the model, after a panic in [`Delivery::run`]. The panic has dropped the requests that
    /// were in flight, so their outcomes are unknown.
    pub(crate) fn abort(&mut self, error: Error) {
        for state in &mut self.states {
            if matches!(state, RequestState::InFlight) {
                *state = RequestState::Unknown;
            }
        }
        if self.has_failed() {
            self.count_undelivered();
            catch_panic(
                || tracing::error!(recovered_error = RecoveredError::Undelivered.name(), %error, "the rest of a failed call was aborted"),
            );
            match self.undecided.take() {
                Some(cause) => self.queue.fail_model(ModelFailure {
                    cause,
                    recovery: Recovery::Never,
                }),
                None => self.queue.decide_recovery(Recovery::Never),
            }
            return;
        }
        self.queue.fail_model(ModelFailure {
            cause: error.clone(),
            recovery: Recovery::Never,
        });
        self.report(Err(error));
    }

    async fn send_together(&mut self, from: usize, to: usize) {
        for state in &mut self.states[from..to] {
            *state = RequestState::InFlight;
        }
        let requests = (from..to).map(|index| {
            let sent = send(Arc::clone(&self.queue), Arc::clone(&self.submission), index);
            async move { (index, sent.await) }
        });
        let mut requests: FuturesUnordered<_> = requests.collect();
        while let Some((index, outcome)) = requests.next().await {
            match outcome {
                Ok(submitted) => self.accepted(index, submitted),
                Err(error) => self.failed(index, error),
            }
        }
    }

    fn accepted(&mut self, index: usize, submitted: Submitted) {
        self.states[index] = RequestState::Accepted(submitted);
        if self.has_failed() {
            self.abandon_results();
        }
    }

    fn failed(&mut self, index: usize, error: Error) {
        let is_free = leaves_number_free(&error, &*self.submission.requests[index]);
        self.states[index] = if is_free {
            RequestState::Refused
        } else {
            RequestState::Unknown
        };
        let seq_id = self.submission.seq(index);
        if self.has_failed() {
            self.count_undelivered();
            catch_panic(
                || tracing::warn!(recovered_error = RecoveredError::Undelivered.name(), operation = self.submission.operation, seq_id, %error, "another request of a failed call failed, too"),
            );
            return;
        }
        let recovery = self.recovery();
        if error.kind() == ErrorKind::Closed && self.queue.session().check_open().is_err() {
            // Queued and later calls fail because the session is closed, and not because this call failed.
            let error = match recovery {
                Recovery::From(_) => error,
                _ => error.with_sent(Sent::MaybeSent),
            };
            self.report(Err(error));
            self.abandon_results();
            return;
        }
        let error = match recovery {
            Recovery::From(_) => error,
            _ if self.submission.requests.len() == 1 => error,
            _ => self.partial_failure(seq_id, error),
        };
        let is_harmless =
            recovery != Recovery::Never && !self.submission.requests[0].changes_model();
        if is_harmless {
            // Queued calls do not depend on this call, and are sent once its sequence numbers are known to be free.
            self.undecided = Some(error.clone());
        } else {
            // Before the report, so that later calls fail as soon as the caller has seen this failure.
            self.queue.fail_model(ModelFailure {
                cause: error.clone(),
                recovery,
            });
        }
        self.report(Err(error));
        self.abandon_results();
    }

    /// Decides from the current states of the requests of this failed call whether the model may accept calls again.
    fn recovery(&self) -> Recovery {
        let any = |is: fn(&RequestState) -> bool| self.states.iter().any(is);
        if any(|state| {
            matches!(
                state,
                RequestState::Accepted(_) | RequestState::Abandoned | RequestState::Unknown
            )
        }) {
            Recovery::Never
        } else if any(|state| matches!(state, RequestState::InFlight)) {
            Recovery::Undecided
        } else {
            Recovery::From(self.submission.first_seq)
        }
    }

    fn has_failed(&self) -> bool {
        self.reply.is_none()
    }

    fn report_success(&mut self) {
        let accepted =
            |state: &mut RequestState| match std::mem::replace(state, RequestState::Abandoned) {
                RequestState::Accepted(submitted) => Some(submitted),
                _ => None,
            };
        let submitted = self.states.iter_mut().filter_map(accepted).collect();
        self.queue.mark_head_accepted();
        self.report(Ok(submitted));
    }

    fn report(&mut self, outcome: Result<Vec<Submitted>>) {
        if let Some(reply) = self.reply.take() {
            // The caller may have dropped its future. The sequence numbers are used nevertheless.
            if let Err(outcome) = reply.send(outcome) {
                self.count_undelivered();
                let (operation, seq_id) = (self.submission.operation, self.submission.first_seq);
                catch_panic(
                    || tracing::debug!(recovered_error = RecoveredError::Undelivered.name(), operation, seq_id, error = ?outcome.err(), "the caller of this submission dropped its future"),
                );
            }
        }
    }

    /// Adds 1 to the counter of outcomes that could not be reported, because the caller has dropped its future or has already received an
    /// earlier error of the call.
    fn count_undelivered(&self) {
        let caller = self.queue.session().caller();
        caller.recovered_errors.count(RecoveredError::Undelivered);
    }

    /// Marks the accepted requests of a failed call as abandoned, so that their results are not retrieved. Logs each of these requests.
    fn abandon_results(&mut self) {
        let recovered_errors = Arc::clone(&self.queue.session().caller().recovered_errors);
        for (index, state) in self.states.iter_mut().enumerate() {
            if !matches!(state, RequestState::Accepted(_)) {
                continue;
            }
            if let RequestState::Accepted(Submitted::Accepted { response, .. }) =
                std::mem::replace(state, RequestState::Abandoned)
            {
                let seq_id = self.submission.seq(index);
                recovered_errors.count(RecoveredError::Undelivered);
                catch_panic(
                    || tracing::warn!(recovered_error = RecoveredError::Undelivered.name(), operation = self.submission.operation, seq_id, request_id = %response.request_id, "the server accepted this request of a failed call; its result is not retrieved"),
                );
            }
        }
    }

    /// Builds the error of a call of which one request has failed, while other requests were accepted, are in flight or may have been applied.
    /// `failed` is the sequence number of the failed request.
    fn partial_failure(&self, failed: u64, error: Error) -> Error {
        let numbers = |is: fn(&RequestState) -> bool| {
            let those = self
                .states
                .iter()
                .enumerate()
                .filter(|(_, state)| is(state));
            let those: Vec<String> = those
                .map(|(i, _)| self.submission.seq(i).to_string())
                .collect();
            those.join(", ")
        };
        let accepted = numbers(|state| matches!(state, RequestState::Accepted(_)));
        let in_flight = numbers(|state| matches!(state, RequestState::InFlight));
        let in_flight = if in_flight.is_empty() {
            String::new()
        } else {
            format!(", [{in_flight}] are in flight")
        };
        let first = self.submission.first_seq;
        let last = self.submission.seq(self.submission.requests.len() - 1);
        let gradients = if self.submission.requests[0].adds_gradients() {
            self.describe_gradients()
        } else {
            "it was a forward pass, which adds no gradients"
        };
        let message = format!(
            "of the chunks {first} to {last} of this call, {failed} failed; the server accepted [{accepted}]{in_flight}; {gradients}"
        );
        let whole = Error::new(error.kind(), Sent::MaybeSent, message);
        let whole = match error.status() {
            Some(status) => {
                whole.with_response(status, &bytes::Bytes::copy_from_slice(error.body()))
            }
            None => whole,
        };
        whole.with_source(error)
    }

    /// Describes for the error text of a failed call whether its gradients were added. This depends on the first request of the call: a server
    /// that applies requests in the order of their sequence numbers applies the other requests only after the first.
    fn describe_gradients(&self) -> &'static str {
        match self.states[0] {
            RequestState::NeverSent | RequestState::Refused => {
                "the first was not accepted, so a server that keeps the order adds no gradients; other servers may have added the gradients of the accepted chunks"
            }
            RequestState::InFlight | RequestState::Unknown => {
                "the first may have been accepted, so gradients of this call may have been added"
            }
            RequestState::Accepted(_) | RequestState::Abandoned => {
                "the first was accepted, so the gradients of the accepted chunks are added"
            }
        }
    }
}

/// Sends one request of a training call. If the response to a save is lost, looks for the saved checkpoint, or repeats the save.
async fn send(
    queue: Arc<SubmissionQueue>,
    submission: Arc<Submission>,
    index: usize,
) -> Result<Submitted> {
    let request = &*submission.requests[index];
    let outgoing = Outgoing {
        session: &**queue.session(),
        model_id: queue.model_id(),
        client: queue.client(),
        operation: submission.operation,
        progress: &submission.progress,
        called_at: submission.called_at,
        request,
        seq_id: submission.seq(index),
    };
    match request.saved_name() {
        Some(name) => recover_save::send_named(&queue, &outgoing, name).await,
        None if request.is_save() => recover_save::send(&outgoing, None).await,
        None => outgoing.send(outgoing.policy()).await,
    }
}
