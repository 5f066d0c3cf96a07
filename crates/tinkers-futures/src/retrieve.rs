//! Retrieval of one result by polling.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, header};
use tinkers_core::nesting::NestedMark;
use tinkers_core::retry::API_ERROR_RETRIES;
use tinkers_core::{
    BytesGuard, ClientId, Error, ErrorKind, HttpRequest, HttpResponse, Phase, ProfileUpdate,
    RecoveredError, Result, RouteClass, Sent,
};
use tinkers_wire::{
    DecodeError, OperationResult, PollResponse, QueueState, RequestKind, RetrieveFuture, routes,
    to_json,
};

use crate::failure::{final_response, operation_failed, with_response};
use crate::poll_loop::{PollHandler, PollLoop, Verdict};
use crate::session_error::confirmed_session_error;
use crate::{CompletionNotice, Operation, QueueLog};

/// The parameters of [`retrieve`]: the request whose result is retrieved, and the context of the polls.
#[derive(Debug, Clone)]
pub struct Retrieval {
    /// The operation to which the result belongs.
    pub operation: Operation,
    /// The client that the polls belong to. The rate limiter has a queue for each client, in which the polls wait for permission to be
    /// sent.
    pub client: ClientId,
    /// The id that the server assigned to the request.
    pub request_id: String,
    /// The kind of the request, which tells how to decode the result.
    pub kind: RequestKind,
    /// The time from the call of the public method to the server's response to the submission. The first poll reports this time to the
    /// server.
    pub submitted_in: Duration,
    /// The log that warns while the server has paused the queue of the client's requests; `None` if there are no such warnings.
    pub queue_log: Option<Arc<QueueLog>>,
}

/// The number of headers of a poll, without those that the transport adds.
const HEADERS: usize = 6;

/// Polls for the result of a submitted request until the result is available. Continues after the end of the session: results of accepted
/// requests are still retrieved.
///
/// Broken connections, full queues, and servers that fail or restart only delay the result.
///
/// # Errors
/// - `OperationFailed` if the operation failed on the server.
/// - `ResultLost` if the server no longer knows the operation.
/// - `Protocol` if a response cannot be decoded.
/// - `Closed` if the operation ended with its session.
/// - The errors of other response statuses that are not retried.
pub async fn retrieve<T: OperationResult>(retrieval: Retrieval) -> Result<T> {
    retrieve_completed(retrieval, CompletionNotice::default()).await
}

/// Retrieves the result of an operation that the server has reported as completed.
///
/// If the notice contains the size of the result, that many bytes are reserved before the first poll, in the budget that limits the memory
/// for large results. This saves a poll that would otherwise ask for the size first.
///
/// # Errors
/// Those of [`retrieve`].
pub async fn retrieve_completed<T: OperationResult>(
    retrieval: Retrieval,
    notice: CompletionNotice,
) -> Result<T> {
    let session = Arc::clone(&retrieval.operation.session);
    let now = session.caller().time.now();
    let progress = &retrieval.operation.progress;
    progress.accepted(now, retrieval.request_id.as_str());
    let may_ask_for_size = session.profile().polls_for_size;
    let mut polls = PollLoop::new(
        session,
        retrieval.client,
        RecoveredError::Poll,
        &retrieval.request_id,
    );
    let mut poll = ResultPoll {
        retrieval,
        size_replies: 0,
        iteration: 0,
        may_ask_for_size,
        budget: None,
        result: PhantomData,
    };
    if let Some(size) = notice.size {
        poll.reserve(size.get()).await;
    }
    let outcome = polls.run(&mut poll, None).await;
    let Retrieval {
        operation,
        request_id,
        ..
    } = poll.retrieval;
    match outcome {
        Ok(result) => Ok(result),
        Err(error) => Err(confirmed_session_error(&operation, error)
            .await
            .with_request_id(request_id)),
    }
}

/// The poll handler that builds the polls for the result of one request, and decodes the result.
struct ResultPoll<T> {
    retrieval: Retrieval,
    /// The number of responses that contained only the size of the result. After a few such responses, the retrieval fails.
    size_replies: u32,
    iteration: u64,
    may_ask_for_size: bool,
    /// The bytes that are reserved in the budget that limits the memory for large results. They are reserved before the result is
    /// transferred, and returned after the result is decoded.
    budget: Option<BytesGuard>,
    result: PhantomData<fn() -> T>,
}

impl<T: OperationResult> PollHandler for ResultPoll<T> {
    type Output = T;

    fn request(&mut self) -> HttpRequest {
        let request = request(
            &self.retrieval,
            T::PROTOBUF,
            self.iteration,
            self.may_ask_for_size,
        );
        self.iteration += 1;
        self.retrieval.operation.progress.record_poll();
        request
    }

    async fn on_success(&mut self, response: HttpResponse) -> Result<Verdict<T>> {
        let read = PollResponse::read(response.header("content-type"), response.body.clone());
        let outcome = match read {
            Ok(PollResponse::TryAgain {
                queue_state,
                reason,
            }) => return Ok(self.not_ready(queue_state, reason)),
            Ok(PollResponse::MetadataOnly { size }) => {
                self.reset_deadline();
                if self.size_replies == API_ERROR_RETRIES {
                    let message = "the server keeps sending the size of the result in place of it";
                    let error = Error::new(ErrorKind::Protocol, Sent::Answered, message);
                    return Err(with_response(error, &response));
                }
                self.size_replies += 1;
                self.reserve(size).await;
                return Ok(Verdict::Progress);
            }
            Ok(last) => decode(last),
            Err(error) => Err(DecodeFailure::Undecodable(error)),
        };
        let outcome = match outcome {
            Ok(result) => Ok(Verdict::Done(result)),
            Err(DecodeFailure::OperationFailed(error)) => Err(with_response(error, &response)),
            Err(DecodeFailure::Undecodable(error)) => {
                let kind = self.retrieval.kind.name();
                let message = format!("cannot decode the result of {kind}: {error}");
                let error = Error::new(ErrorKind::Protocol, Sent::Answered, message);
                return Ok(Verdict::Invalid(with_response(error, &response)));
            }
        };
        self.reset_deadline();
        self.report_queue(Some(QueueState::Active), None);
        outcome
    }

    fn on_not_ready(&mut self, response: HttpResponse) -> Verdict<T> {
        let (queue_state, reason) = PollResponse::queue_state_of_timeout(&response.body);
        self.not_ready(queue_state, reason)
    }

    fn on_held_back(&mut self) {
        self.reset_deadline();
    }

    fn on_error_status(&mut self, response: &HttpResponse) {
        const FIELD: &[u8] = b"allow_metadata_only";
        let names_field = response.body.windows(FIELD.len()).any(|part| part == FIELD);
        if self.may_ask_for_size && names_field && response.status.is_client_error() {
            self.may_ask_for_size = false;
            let session = &self.retrieval.operation.session;
            session.learn(ProfileUpdate::PollsWithoutSize);
        }
    }

    fn final_error(kind: ErrorKind, response: &HttpResponse) -> Error {
        final_response(kind, response)
    }
}

impl<T> ResultPoll<T> {
    fn not_ready(&self, queue_state: Option<QueueState>, reason: Option<String>) -> Verdict<T> {
        self.reset_deadline();
        self.report_queue(queue_state, reason.as_deref());
        Verdict::NotReady
    }

    /// Waits until `size` bytes are reserved in the budget that limits the memory for large results. After that, polls ask for the whole
    /// result instead of its size.
    async fn reserve(&mut self, size: u64) {
        self.may_ask_for_size = false;
        self.retrieval.operation.progress.enter(Phase::Fetching);
        // If another request makes this poll, for example in a transport layer, that request may hold the whole budget.
        if self.budget.is_none() && !NestedMark::here().is_inside() {
            self.budget = Some(self.retrieval.operation.session.response_bytes(size).await);
        }
    }

    /// Restarts the progress deadline of the operation: the operation fails as stalled only if it makes no progress from now until the
    /// deadline.
    fn reset_deadline(&self) {
        let operation = &self.retrieval.operation;
        operation
            .progress
            .record_response(operation.session.caller().time.now());
    }

    fn report_queue(&self, state: Option<QueueState>, reason: Option<&str>) {
        let Some(state) = state else { return };
        let operation = &self.retrieval.operation;
        operation.progress.queue(state.clone(), reason);
        if let Some(log) = &self.retrieval.queue_log {
            log.observe(operation.session.caller().time.now(), &state, reason);
        }
    }
}

fn request(
    retrieval: &Retrieval,
    is_protobuf: bool,
    iteration: u64,
    may_ask_for_size: bool,
) -> HttpRequest {
    let mut request = HttpRequest::new(Method::POST, routes::RETRIEVE_FUTURE, RouteClass::Poll);
    request.body = to_json(&RetrieveFuture {
        request_id: retrieval.request_id.clone(),
        allow_metadata_only: may_ask_for_size,
    });
    let session = &retrieval.operation.session;
    request.timeouts = session.caller().timeouts.of(RouteClass::Poll);
    let accept = if is_protobuf {
        "application/x-protobuf, application/json"
    } else {
        "application/json"
    };
    let headers = &mut request.headers;
    headers.reserve(HEADERS);
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
    let kind = HeaderValue::from_static(retrieval.kind.name());
    headers.insert(HeaderName::from_static("x-tinker-request-type"), kind);
    headers.insert(
        HeaderName::from_static("x-tinker-request-iteration"),
        HeaderValue::from(iteration),
    );
    let name = Bytes::from_static(retrieval.operation.name.as_bytes());
    if let Ok(name) = HeaderValue::from_maybe_shared(name) {
        headers.insert(HeaderName::from_static("x-sdk-method"), name);
    }
    if iteration == 0
        && let Ok(seconds) =
            HeaderValue::try_from(format!("{:.6}", retrieval.submitted_in.as_secs_f64()))
    {
        headers.insert(
            HeaderName::from_static("x-tinker-create-promise-roundtrip-time"),
            seconds,
        );
    }
    request
}

/// The reason why a response contains no result.
enum DecodeFailure {
    /// The response reports that the operation failed.
    OperationFailed(Error),
    /// The response has neither the fields of the result nor those of a known failure.
    Undecodable(DecodeError),
}

fn decode<T: OperationResult>(response: PollResponse) -> Result<T, DecodeFailure> {
    match response {
        PollResponse::Protobuf(body) => T::from_protobuf(body).map_err(DecodeFailure::Undecodable),
        PollResponse::Json(body) => {
            T::from_json(&body).map_err(|error| match PollResponse::failure_in(&body) {
                Some(PollResponse::Failed { error, category }) => {
                    DecodeFailure::OperationFailed(operation_failed(&error, category))
                }
                _ => DecodeFailure::Undecodable(error),
            })
        }
        PollResponse::Failed { error, category } => Err(DecodeFailure::OperationFailed(
            operation_failed(&error, category),
        )),
        PollResponse::TryAgain { .. } | PollResponse::MetadataOnly { .. } => {
            let message = "the server reported that there is no result yet";
            Err(DecodeFailure::Undecodable(DecodeError::new(message)))
        }
    }
}
