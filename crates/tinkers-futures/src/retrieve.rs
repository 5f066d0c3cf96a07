//! Waiting for the result of an accepted operation.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, header};
use tinkers_core::billing::Billing;
use tinkers_core::call::answer_error;
use tinkers_core::nesting::Mark;
use tinkers_core::{
    Admitted, Arrival, Ask, BytesGuard, Caller, ClientId, Cost, Deduplication, Error, ErrorKind,
    HttpRequest, HttpResponse, Moment, Phase, Reentry, Result, RouteClass, Sent, Setback, Timeouts,
    TransportError,
};
use tinkers_wire::{
    DecodeError, FailureCategory, OperationResult, PollAnswer, QueueState, RequestKind,
    RetrieveFuture, routes, to_json,
};

use crate::closing::after_loss;
use crate::doubts::Doubts;
use crate::pace::{
    POLL_LIMIT, Pace, held_in_vain, hint_of, is_held, is_passing, settlement, sit_out,
};
use crate::poll_table::FEW_TIMES;
use crate::{Announcement, Operation, PollAction, QueueLog, classify_poll};

/// What is waited for.
#[derive(Debug, Clone)]
pub struct Retrieval {
    /// The operation that it belongs to.
    pub operation: Operation,
    /// Whose queue its polls wait in.
    pub client: ClientId,
    /// The server's id.
    pub request_id: String,
    /// What kind of operation it is.
    pub kind: RequestKind,
    /// How long the submission took, from its call to its promise.
    pub submitted_in: Duration,
    /// Who warns of a paused queue.
    pub queue_log: Option<Arc<QueueLog>>,
}

/// Headers of a poll that the transport does not add.
const HEADERS: usize = 6;

/// Asks for the result until it is there. The end of the session does not end it: what was accepted before is waited for.
///
/// # Errors
/// `OperationFailed` when the operation failed on the server, `ResultLost` when the server no longer knows it, `Protocol` when
/// an answer cannot be read, `Closed` when the operation ended with its session, and the errors of the statuses that say that
/// there will be no result. Broken connections, full queues and servers that fail or restart are waited out.
pub async fn retrieve<T: OperationResult>(retrieval: Retrieval) -> Result<T> {
    retrieve_announced(retrieval, Announcement::default()).await
}

/// The same where the server has announced the result. The bytes of one whose size it told are taken from the budget for large
/// results at once, which saves the question how large it is.
///
/// # Errors
/// Those of [`retrieve`].
pub async fn retrieve_announced<T: OperationResult>(
    retrieval: Retrieval,
    announcement: Announcement,
) -> Result<T> {
    let session = Arc::clone(&retrieval.operation.session);
    let now = session.caller().time.now();
    let progress = &retrieval.operation.progress;
    progress.accepted(now, retrieval.request_id.as_str());
    let mut polling = Polling {
        retrieval,
        pace: Pace::default(),
        doubts: Doubts::default(),
        peeked: 0,
        iteration: 0,
        may_peek: true,
        reentry: Reentry::New,
        arrival: Arrival::default(),
        budget: None,
    };
    if let Some(size) = announcement.size {
        polling.fetch(size.get()).await;
    }
    let outcome = polling.run(T::PROTOBUF, decode::<T>).await;
    let Retrieval {
        operation,
        request_id,
        ..
    } = polling.retrieval;
    match outcome {
        Ok(result) => Ok(result),
        Err(error) => Err(after_loss(&operation, error)
            .await
            .with_request_id(request_id)),
    }
}

struct Polling {
    retrieval: Retrieval,
    pace: Pace,
    doubts: Doubts,
    peeked: u32,
    iteration: u64,
    may_peek: bool,
    reentry: Reentry,
    /// When the last poll came, among those of its lane.
    arrival: Arrival,
    /// Bytes of a large result, held from before its transfer until it is decoded.
    budget: Option<BytesGuard>,
}

impl Polling {
    async fn run<T>(&mut self, protobuf: bool, decode: fn(PollAnswer) -> Result<T>) -> Result<T> {
        let session = Arc::clone(&self.retrieval.operation.session);
        let caller = session.caller();
        loop {
            let (sent_at, outcome) = self.poll_once(caller, protobuf).await?;
            let held = caller.time.now().since(sent_at);
            let answer = match outcome {
                Ok(answer) => answer,
                Err(error) => {
                    self.after_transport_error(caller, error, sent_at).await?;
                    continue;
                }
            };
            if !answer.status.is_server_error() {
                let outage = caller.outages.of(RouteClass::Poll);
                outage.answered(sent_at, sent_at.after(held));
            }
            let hint = hint_of(&answer, caller.time.wall());
            match classify_poll(&answer, caller.time.wall()) {
                PollAction::Answer(PollAnswer::TryAgain {
                    queue_state,
                    reason,
                })
                | PollAction::NotReady {
                    queue_state,
                    reason,
                } => {
                    self.news(caller);
                    self.tell_queue(caller, queue_state, reason.as_deref());
                    self.doubts.clear();
                    let pause = self.pace.after_not_ready(held, &*caller.jitter);
                    caller.time.sleep(pause.max(hint)).await;
                }
                PollAction::Answer(PollAnswer::MetadataOnly { size }) => {
                    self.news(caller);
                    self.prepare_for(size, &answer).await?;
                    caller
                        .time
                        .sleep(
                            self.pace
                                .after_not_ready(Duration::from_secs(1), &*caller.jitter),
                        )
                        .await;
                }
                PollAction::Answer(last) => {
                    self.news(caller);
                    self.tell_queue(caller, Some(QueueState::Active), None);
                    return decode(last).map_err(|error| attach(error, &answer));
                }
                PollAction::Refused { .. } => {
                    // The lane has been closed by the settlement; the next admission waits for it.
                    self.news(caller);
                    self.reentry = Reentry::AfterRefusal(self.arrival);
                }
                PollAction::PauseForBilling => match caller
                    .billing
                    .on_payment_required(caller.time.now(), caller.billing_limit)
                {
                    Billing::Pause(step) => {
                        caller.setbacks.note(Setback::Billing, &answer.status);
                        self.news(caller);
                        caller.time.sleep(step.max(hint)).await;
                    }
                    Billing::GiveUp => return Err(answer_error(ErrorKind::Billing, &answer)),
                },
                PollAction::Again { .. } => {
                    self.failed(caller, &answer.status);
                    if answer.status.is_server_error() {
                        self.sit_out(caller, hint, sent_at).await;
                    } else {
                        self.pause_after_failure(caller, hint).await;
                    }
                }
                // A server that keeps the whole of the protocol tells of failed operations in the body: this one broke.
                PollAction::AgainFewTimes {
                    kind: ErrorKind::Server,
                    ..
                } if session.profile().deduplicates == Deduplication::Everything => {
                    self.failed(caller, &answer.status);
                    self.sit_out(caller, hint, sent_at).await;
                }
                PollAction::AgainFewTimes { times, kind } => {
                    if !self.doubts.once_more(answer.status, times) {
                        return Err(final_error(kind, &answer));
                    }
                    self.failed(caller, &answer.status);
                    self.pause_after_failure(caller, hint).await;
                }
                PollAction::Fail(kind) => return Err(answer_error(kind, &answer)),
                // It may have been spoilt on its way, and a result can be fetched again.
                PollAction::Unreadable(error)
                    if self.doubts.once_more(answer.status, FEW_TIMES) =>
                {
                    self.failed(caller, &error);
                    self.pause_after_failure(caller, hint).await;
                }
                PollAction::Unreadable(error) => {
                    let unreadable =
                        Error::new(ErrorKind::Protocol, Sent::Answered, error.to_string());
                    return Err(attach(unreadable, &answer));
                }
            }
        }
    }

    /// Pauses before the next poll behind one that failed.
    async fn pause_after_failure(&mut self, caller: &Caller, hint: Duration) {
        let pause = self.pace.after_failure(hint, &*caller.jitter);
        caller.time.sleep(pause).await;
    }

    /// The same behind one that left at `sent_at` and failed as all do while a server is away.
    async fn sit_out(&mut self, caller: &Caller, hint: Duration, sent_at: Moment) {
        let pause = self.pace.after_failure(hint, &*caller.jitter);
        sit_out(caller, sent_at, hint, pause).await;
    }

    /// One poll: admitted, sent, settled. With when it was sent.
    async fn poll_once(
        &mut self,
        caller: &Caller,
        protobuf: bool,
    ) -> Result<(Moment, Result<HttpResponse, TransportError>)> {
        loop {
            let ask = Ask {
                class: RouteClass::Poll,
                client: self.retrieval.client,
                cost: Cost::default(),
                deadline: None,
                flight: None,
                reentry: std::mem::replace(&mut self.reentry, Reentry::New),
                is_nested: Mark::here().is_inside(),
            };
            let Admitted {
                mut permit,
                flight,
                arrival,
            } = caller.admission.admit(ask).await?;
            self.arrival = arrival;
            let request = self.request(protobuf);
            let sent_at = caller.time.now();
            let outcome = caller.send(&mut permit, request).await;
            if is_held(&outcome) {
                self.reentry = Reentry::AfterRefusal(arrival);
                continue;
            }
            self.iteration += 1;
            self.retrieval.operation.progress.polled();
            permit.settle(settlement(&outcome, caller));
            drop(flight);
            return Ok((sent_at, outcome));
        }
    }

    fn request(&self, protobuf: bool) -> HttpRequest {
        let mut request = HttpRequest::new(Method::POST, routes::RETRIEVE_FUTURE, RouteClass::Poll);
        request.body = to_json(&RetrieveFuture {
            request_id: self.retrieval.request_id.clone(),
            allow_metadata_only: self.may_peek,
        });
        request.timeouts = Timeouts {
            first_byte: POLL_LIMIT,
            ..Timeouts::default()
        };
        request.headers.reserve(HEADERS);
        let accept = if protobuf {
            "application/x-protobuf, application/json"
        } else {
            "application/json"
        };
        request.headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        request
            .headers
            .insert(header::ACCEPT, HeaderValue::from_static(accept));
        let kind = HeaderValue::from_static(self.retrieval.kind.name());
        request
            .headers
            .insert(HeaderName::from_static("x-tinker-request-type"), kind);
        request.headers.insert(
            HeaderName::from_static("x-tinker-request-iteration"),
            HeaderValue::from(self.iteration),
        );
        let name = Bytes::from_static(self.retrieval.operation.name.as_bytes());
        if let Ok(name) = HeaderValue::from_maybe_shared(name) {
            request
                .headers
                .insert(HeaderName::from_static("x-sdk-method"), name);
        }
        if self.iteration == 0
            && let Ok(seconds) =
                HeaderValue::try_from(format!("{:.6}", self.retrieval.submitted_in.as_secs_f64()))
        {
            request.headers.insert(
                HeaderName::from_static("x-tinker-create-promise-roundtrip-time"),
                seconds,
            );
        }
        request
    }

    async fn after_transport_error(
        &mut self,
        caller: &Caller,
        error: TransportError,
        sent_at: Moment,
    ) -> Result<()> {
        if !is_passing(&error) {
            return Err(error.into());
        }
        self.failed(caller, &error);
        match held_in_vain(&error, caller.time.now().since(sent_at)) {
            Some(held) => {
                self.doubts.clear();
                let pause = self.pace.after_not_ready(held, &*caller.jitter);
                caller.time.sleep(pause).await;
            }
            None => self.sit_out(caller, Duration::ZERO, sent_at).await,
        }
        Ok(())
    }

    /// Waits until a large result may be fetched.
    async fn prepare_for(&mut self, size: u64, answer: &HttpResponse) -> Result<()> {
        if self.peeked == FEW_TIMES {
            let message =
                "the server tells the size of the result again and again and never sends it";
            return Err(attach(
                Error::new(ErrorKind::Protocol, Sent::Answered, message),
                answer,
            ));
        }
        self.peeked += 1;
        self.fetch(size).await;
        Ok(())
    }

    /// From now on the whole result is asked for.
    async fn fetch(&mut self, size: u64) {
        self.may_peek = false;
        self.retrieval.operation.progress.enter(Phase::Fetching);
        if self.budget.is_none() {
            self.budget = Some(self.retrieval.operation.session.response_bytes(size).await);
        }
    }

    /// A poll that failed is asked again.
    fn failed(&self, caller: &Caller, why: &dyn fmt::Display) {
        caller.setbacks.count(Setback::Poll);
        let request_id = &self.retrieval.request_id;
        tracing::debug!(setback = Setback::Poll.name(), %why, %request_id, "a poll is asked again");
    }

    fn news(&self, caller: &Caller) {
        self.retrieval.operation.progress.news(caller.time.now());
    }

    fn tell_queue(&self, caller: &Caller, state: Option<QueueState>, reason: Option<&str>) {
        let Some(state) = state else { return };
        self.retrieval
            .operation
            .progress
            .queue(state.clone(), reason);
        if let Some(log) = &self.retrieval.queue_log {
            log.observe(caller.time.now(), &state, reason);
        }
    }
}

fn decode<T: OperationResult>(answer: PollAnswer) -> Result<T> {
    let decoded = match answer {
        PollAnswer::Protobuf(body) => T::from_protobuf(body),
        PollAnswer::Json(body) => T::from_json(&body),
        PollAnswer::Failed { error, category } => {
            let advice = if category == FailureCategory::Server {
                "; it may succeed if submitted again"
            } else {
                ""
            };
            let failed = Error::new(
                ErrorKind::OperationFailed,
                Sent::Answered,
                format!("{error}{advice}"),
            );
            return Err(failed.with_category(category));
        }
        PollAnswer::TryAgain { .. } | PollAnswer::MetadataOnly { .. } => Err(DecodeError::new(
            "the server answered that there is no result yet",
        )),
    };
    decoded.map_err(|error| {
        Error::new(
            ErrorKind::Protocol,
            Sent::Answered,
            format!("the result cannot be read: {error}"),
        )
    })
}

/// What a doubted answer means when it stays. Open servers tell of failed operations this way.
fn final_error(kind: ErrorKind, answer: &HttpResponse) -> Error {
    let error = answer_error(kind, answer);
    let category = match answer.status.as_u16() {
        400 | 422 => FailureCategory::User,
        500 => FailureCategory::Server,
        _ => return error,
    };
    let message =
        tinkers_wire::error_text(&answer.body).unwrap_or_else(|| "the operation failed".to_owned());
    let failed = Error::new(ErrorKind::OperationFailed, Sent::Answered, message);
    failed
        .with_category(category)
        .with_answer(answer.status.as_u16(), &answer.body)
}

fn attach(error: Error, answer: &HttpResponse) -> Error {
    // A protobuf body says nothing to a person.
    let is_text = answer
        .header("content-type")
        .is_none_or(|kind| !kind.contains("protobuf"));
    let body = if is_text {
        answer.body.clone()
    } else {
        Bytes::new()
    };
    error.with_answer(answer.status.as_u16(), &body)
}
