//! Waiting for the result of an accepted operation.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, header};
use tinkers_core::call::answer_error;
use tinkers_core::nesting::Mark;
use tinkers_core::retry::FEW_DOUBTS;
use tinkers_core::{
    BytesGuard, Caller, ClientId, Error, ErrorKind, HttpRequest, HttpResponse, Phase,
    RecoveredError, Result, RouteClass, Sent, Timeouts,
};
use tinkers_wire::{
    DecodeError, FailureCategory, OperationResult, PollResponse, QueueState, RequestKind,
    RetrieveFuture, routes, to_json,
};

use crate::closing::after_loss;
use crate::pace::hint_of;
use crate::polls::{POLL_LIMIT, Polls, Reply, Wait};
use crate::{CompletionNotice, Operation, QueueLog};

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
    retrieve_announced(retrieval, CompletionNotice::default()).await
}

/// The same where the server has announced the result. The bytes of one whose size it told are taken from the budget for large
/// results at once, which saves the question how large it is.
///
/// # Errors
/// Those of [`retrieve`].
pub async fn retrieve_announced<T: OperationResult>(
    retrieval: Retrieval,
    announcement: CompletionNotice,
) -> Result<T> {
    let session = Arc::clone(&retrieval.operation.session);
    let now = session.caller().time.now();
    let progress = &retrieval.operation.progress;
    progress.accepted(now, retrieval.request_id.as_str());
    let mut polling = Polling {
        polls: Polls::new(
            Arc::clone(&session),
            retrieval.client,
            RecoveredError::Poll,
            &retrieval.request_id,
            of_the_operation,
        ),
        retrieval,
        peeked: 0,
        iteration: 0,
        may_peek: true,
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
    polls: Polls,
    peeked: u32,
    iteration: u64,
    may_peek: bool,
    /// Bytes of a large result, held from before its transfer until it is decoded.
    budget: Option<BytesGuard>,
}

impl Polling {
    async fn run<T>(&mut self, protobuf: bool, decode: Decode<T>) -> Result<T> {
        loop {
            let exchange = {
                let Self {
                    retrieval,
                    polls,
                    iteration,
                    may_peek,
                    ..
                } = self;
                let begin = || {
                    let request = request(retrieval, protobuf, *iteration, *may_peek);
                    *iteration += 1;
                    retrieval.operation.progress.polled();
                    request
                };
                polls.send(None, begin).await?
            };
            let held = exchange.held;
            let wait = match self.polls.judge(exchange)? {
                Reply::Success(answer) => {
                    match PollResponse::read(answer.header("content-type"), answer.body.clone()) {
                        Ok(PollResponse::TryAgain {
                            queue_state,
                            reason,
                        }) => self.not_ready(held, Duration::ZERO, queue_state, reason),
                        Ok(PollResponse::MetadataOnly { size }) => {
                            self.news();
                            self.prepare_for(size, &answer).await?;
                            // It is ready: the next poll is no quick one.
                            self.polls
                                .not_ready(held.max(Duration::from_secs(1)), Duration::ZERO)
                        }
                        Ok(last) => match decode(last) {
                            Err(NoResult::Unreadable(error)) => self.doubt(&error, &answer)?,
                            ended => {
                                self.news();
                                self.tell_queue(Some(QueueState::Active), None);
                                return ended.map_err(|error| attach(error.into(), &answer));
                            }
                        },
                        Err(error) => self.doubt(&error, &answer)?,
                    }
                }
                Reply::NotReady(answer) => {
                    let (queue_state, reason) = PollResponse::queue_state_of_timeout(&answer.body);
                    let wall = self.caller().time.wall();
                    self.not_ready(held, hint_of(&answer, wall), queue_state, reason)
                }
                Reply::Again { wait, is_news } => {
                    if is_news {
                        self.news();
                    }
                    wait
                }
            };
            self.polls.wait(wait).await;
        }
    }

    fn caller(&self) -> &Caller {
        self.retrieval.operation.session.caller()
    }

    fn not_ready(
        &mut self,
        held: Duration,
        hint: Duration,
        queue_state: Option<QueueState>,
        reason: Option<String>,
    ) -> Wait {
        self.news();
        self.tell_queue(queue_state, reason.as_deref());
        self.polls.not_ready(held, hint)
    }

    /// A success that is no result may come from something else than the operation: it is fetched again a few times.
    fn doubt(&mut self, error: &DecodeError, answer: &HttpResponse) -> Result<Wait> {
        let kind = self.retrieval.kind.name();
        let message = format!("cannot decode the result of {kind}: {error}");
        let error = Error::new(ErrorKind::Protocol, Sent::Answered, message);
        self.polls.doubt_body(attach(error, answer))
    }

    /// Waits until a large result may be fetched.
    async fn prepare_for(&mut self, size: u64, answer: &HttpResponse) -> Result<()> {
        if self.peeked == FEW_DOUBTS {
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
        // A request under way that makes this one may hold all of the budget.
        if self.budget.is_none() && !Mark::here().is_inside() {
            self.budget = Some(self.retrieval.operation.session.response_bytes(size).await);
        }
    }

    fn news(&self) {
        let now = self.caller().time.now();
        self.retrieval.operation.progress.news(now);
    }

    fn tell_queue(&self, state: Option<QueueState>, reason: Option<&str>) {
        let Some(state) = state else { return };
        self.retrieval
            .operation
            .progress
            .queue(state.clone(), reason);
        if let Some(log) = &self.retrieval.queue_log {
            log.observe(self.caller().time.now(), &state, reason);
        }
    }
}

fn request(retrieval: &Retrieval, protobuf: bool, iteration: u64, may_peek: bool) -> HttpRequest {
    let mut request = HttpRequest::new(Method::POST, routes::RETRIEVE_FUTURE, RouteClass::Poll);
    request.body = to_json(&RetrieveFuture {
        request_id: retrieval.request_id.clone(),
        allow_metadata_only: may_peek,
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
    let kind = HeaderValue::from_static(retrieval.kind.name());
    request
        .headers
        .insert(HeaderName::from_static("x-tinker-request-type"), kind);
    request.headers.insert(
        HeaderName::from_static("x-tinker-request-iteration"),
        HeaderValue::from(iteration),
    );
    let name = Bytes::from_static(retrieval.operation.name.as_bytes());
    if let Ok(name) = HeaderValue::from_maybe_shared(name) {
        request
            .headers
            .insert(HeaderName::from_static("x-sdk-method"), name);
    }
    if iteration == 0
        && let Ok(seconds) =
            HeaderValue::try_from(format!("{:.6}", retrieval.submitted_in.as_secs_f64()))
    {
        request.headers.insert(
            HeaderName::from_static("x-tinker-create-promise-roundtrip-time"),
            seconds,
        );
    }
    request
}

/// Reads the last answer as the result of an operation.
type Decode<T> = fn(PollResponse) -> Result<T, NoResult>;

/// Why an answer is no result.
enum NoResult {
    /// It says that the operation failed.
    Failed(Error),
    /// It has neither the fields of the result nor a known form of failure.
    Unreadable(DecodeError),
}

impl From<NoResult> for Error {
    fn from(why: NoResult) -> Self {
        match why {
            NoResult::Failed(error) => error,
            NoResult::Unreadable(error) => {
                Self::new(ErrorKind::Protocol, Sent::Answered, error.to_string())
            }
        }
    }
}

fn decode<T: OperationResult>(answer: PollResponse) -> Result<T, NoResult> {
    match answer {
        PollResponse::Protobuf(body) => T::from_protobuf(body).map_err(NoResult::Unreadable),
        PollResponse::Json(body) => {
            T::from_json(&body).map_err(|error| match PollResponse::failure_in(&body) {
                Some(PollResponse::Failed { error, category }) => {
                    NoResult::Failed(operation_failed(&error, category))
                }
                _ => NoResult::Unreadable(error),
            })
        }
        PollResponse::Failed { error, category } => {
            Err(NoResult::Failed(operation_failed(&error, category)))
        }
        PollResponse::TryAgain { .. } | PollResponse::MetadataOnly { .. } => {
            let message = "the server answered that there is no result yet";
            Err(NoResult::Unreadable(DecodeError::new(message)))
        }
    }
}

/// The error of an operation that failed on the server.
pub(crate) fn operation_failed(words: &str, category: FailureCategory) -> Error {
    let advice = if category == FailureCategory::Server {
        "; it may succeed if submitted again"
    } else {
        ""
    };
    let message = format!("{words}{advice}");
    Error::new(ErrorKind::OperationFailed, Sent::Answered, message).with_category(category)
}

/// What an answer to a poll means when it counts. Open servers tell of failed operations this way, with a reason.
fn of_the_operation(kind: ErrorKind, answer: &HttpResponse) -> Error {
    let category = match answer.status.as_u16() {
        400 | 422 => FailureCategory::User,
        500 => FailureCategory::Server,
        _ => return answer_error(kind, answer),
    };
    let Some(words) = tinkers_wire::error_text(&answer.body) else {
        return answer_error(kind, answer);
    };
    let failed = Error::new(ErrorKind::OperationFailed, Sent::Answered, words);
    let failed = failed.with_category(category);
    failed.with_answer(answer.status.as_u16(), &answer.body)
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
