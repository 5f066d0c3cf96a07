//! Calls of the API, and the caller that makes them.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use tinkers_limits::RetryBudget;

use crate::admission::{
    Admission, AdmissionRequest, Admitted, ClientId, Cost, DepartureCheck, InFlightPermit,
    RouteClass, SubmitPermit,
};
use crate::billing::Billing;
use crate::closing::{CloseSignal, CloseWatch, SendDecision};
use crate::error::{Error, ErrorKind, Sent};
use crate::jitter::Jitter;
use crate::nesting::{self, NestedMark};
use crate::notices::DeprecationNotices;
use crate::outage::Outages;
use crate::progress::ProgressCell;
use crate::recovered_error::RecoveredErrors;
use crate::retry::{CallPolicy, RetryPolicy};
use crate::session_lost::says_session_lost;
use crate::spawn::BoxFuture;
use crate::time::{Clock, Timestamp};
use crate::transport::{ClassTimeouts, HttpRequest, HttpResponse, Transport, TransportError};

mod attempts;
mod same_reason;

use attempts::Attempts;

/// A call of the API: an HTTP request, and the data with which its admission and its retries are controlled.
#[derive(Debug, Clone)]
pub struct Call {
    /// The name of the public method that makes the call, in the form `Client.method`; errors contain it. `None` for background work.
    pub operation: Option<&'static str>,
    /// The HTTP method.
    pub method: Method,
    /// The path and query below the base URL.
    pub path: String,
    /// The headers of the request, in addition to those that the transport adds.
    pub headers: HeaderMap,
    /// The request body, which is the same for all attempts.
    pub body: Bytes,
    /// The route class of the call.
    pub class: RouteClass,
    /// The client in whose queue the call waits.
    pub client: ClientId,
    /// The amounts that the call takes from the rate limits, such as the size of its body.
    pub cost: Cost,
    /// The retry policy of the call.
    pub policy: CallPolicy,
    /// The time at which the call fails, whether it waits for admission, a response or a retry. `None` is no deadline.
    pub deadline: Option<Timestamp>,
    /// The time limit of one attempt. `None` applies the timeouts that the client has for the route class.
    pub attempt_limit: Option<Duration>,
    /// The maximum size of the response body, in bytes; by default that of the [route class](HttpRequest::default_max_response_bytes).
    pub max_response_bytes: usize,
    /// The record of the progress of the operation to which the call belongs.
    pub progress: Option<Arc<ProgressCell>>,
    /// A function that returns whether a response ends the call with an error although the retry policy would send the request again.
    /// Callers set it if they react to such a response with a different request.
    pub is_final: Option<fn(&HttpResponse) -> bool>,
    /// The maximum number of retries after responses with a server error (5xx) and the same reason. `None` for no such limit. Callers set
    /// it for creations, since each attempt may leave an object behind on the server.
    pub max_same_reason: Option<u32>,
    /// A function that returns whether a successful response can be decoded. If it returns false, a proxy may have corrupted the response.
    /// The call is then retried a few times, provided that its policy repeats requests that may have been applied.
    pub is_readable: Option<fn(&HttpResponse) -> bool>,
}

/// The number of headers that a submission adds to those of the transport. The header map gets this capacity.
const HEADERS: usize = 5;

impl Call {
    /// Creates a `POST` call with a JSON body.
    pub fn post(path: impl Into<String>, body: Bytes, class: RouteClass) -> Self {
        let mut call = Self::bare(Method::POST, path.into(), class);
        // Room for all headers, so that the map does not grow.
        call.headers.reserve(HEADERS);
        call.headers.insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        call.body = body;
        call
    }

    /// Creates a `GET` call.
    pub fn get(path: impl Into<String>, class: RouteClass) -> Self {
        Self::bare(Method::GET, path.into(), class)
    }

    fn bare(method: Method, path: String, class: RouteClass) -> Self {
        Self {
            operation: None,
            method,
            path,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            class,
            client: ClientId(0),
            cost: Cost::default(),
            policy: CallPolicy::PATIENT,
            deadline: None,
            attempt_limit: None,
            max_response_bytes: HttpRequest::default_max_response_bytes(class),
            progress: None,
            is_final: None,
            max_same_reason: None,
            is_readable: None,
        }
    }

    fn request(&self, now: Timestamp, timeouts: &ClassTimeouts) -> HttpRequest {
        let mut request = HttpRequest::new(self.method.clone(), self.path.clone(), self.class);
        request.headers = self.headers.clone();
        request.body = self.body.clone();
        let timeouts = timeouts.of(self.class);
        request.timeouts = match self.attempt_limit {
            Some(limit) => timeouts.limited_to(limit),
            None => timeouts,
        };
        request.max_response_bytes = self.max_response_bytes;
        if let Some(deadline) = self.deadline {
            request.timeouts.total = request.timeouts.total.min(deadline.since(now));
        }
        request
    }
}

/// The result of a successful call: the response, and the permit that counts the request as in flight.
#[derive(Debug)]
pub struct Accepted {
    /// The response. Its status is a 2xx.
    pub response: HttpResponse,
    /// The permit that counts the request as in flight. The caller holds it until the result is available.
    pub in_flight_permit: InFlightPermit,
    /// The time from the start of the call to the response, including all waits.
    pub elapsed: Duration,
    /// `MaybeSent` if the server may also have applied an earlier attempt of the same call, `NotSent` otherwise.
    pub earlier: Sent,
}

/// The permits for the first attempt of a call that is not built yet. Such a call needs no memory for its request while it waits for
/// admission. Dropping the value returns the permits.
#[derive(Debug)]
pub struct CallAdmission {
    admitted: Admitted,
    /// The time at which the wait for admission began.
    began: Timestamp,
}

/// A future that waits for admission and resolves to a [`CallAdmission`]. The future is small, since many calls may wait at once.
#[must_use = "a future does nothing unless it is awaited"]
pub struct CallAdmissionFuture<'a> {
    pending: BoxFuture<'a, Result<Admitted, Error>>,
    began: Timestamp,
    closed: CloseWatch<'a>,
}

impl Future for CallAdmissionFuture<'_> {
    type Output = Result<CallAdmission, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(closed) = self.closed.poll(cx) {
            return Poll::Ready(Err(closed));
        }
        let began = self.began;
        let polled = self.pending.as_mut().poll(cx);
        polled.map_ok(|admitted| CallAdmission { admitted, began })
    }
}

impl fmt::Debug for CallAdmissionFuture<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallAdmissionFuture")
            .field("began", &self.began)
            .finish_non_exhaustive()
    }
}

/// Makes calls: waits for admission, sends the attempts and retries failures.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The transport that sends the requests.
    pub transport: Arc<dyn Transport>,
    /// The rate limiter, which decides when a request may be sent.
    pub admission: Arc<dyn Admission>,
    /// The clock that determines when deadlines pass and pauses end.
    pub time: Arc<dyn Clock>,
    /// The source of jitter for the pauses between retries.
    pub jitter: Arc<dyn Jitter>,
    /// The retry budget, which slows down retries under load.
    pub budget: Arc<RetryBudget>,
    /// The outage state of the endpoint. It wakes retries early when the server responds again after an outage.
    pub outages: Arc<Outages>,
    /// The logger of deprecation notices.
    pub notices: Arc<DeprecationNotices>,
    /// The billing state, which pauses requests while the server requires payment.
    pub billing: Billing,
    /// The numbers of errors from which the session has recovered, such as retried requests, by kind.
    pub recovered_errors: Arc<RecoveredErrors>,
    /// The signal with which the client is closed. After the close, all calls fail.
    pub closing: Arc<CloseSignal>,
    /// The timeouts of the requests of each route class.
    pub timeouts: ClassTimeouts,
    /// The client's retry policy. It limits the retry policy of each call.
    pub retries: RetryPolicy,
}

impl Caller {
    /// Makes `call`, with retries according to its policy.
    ///
    /// When the signal [`Caller::closing`] is closed, a call that the server has not accepted fails at once with the reason of the close,
    /// whether it waits for admission, a retry or a response. Nothing is sent afterwards.
    ///
    /// # Errors
    /// The error of the last attempt, or of the wait for admission. It has [`Sent::MaybeSent`] if any attempt may have been applied.
    ///
    /// # Cancel safety
    /// Dropping the future returns all permits. The server may have received the request.
    pub async fn call(&self, call: Call) -> Result<Accepted, Error> {
        self.make(call, self.time.now(), None).await
    }

    /// Waits for the admission of a call that the caller builds later. `ask` contains the route class, client and size of that call. Pass
    /// the result to [`Caller::call_admitted`].
    pub fn admit(&self, ask: AdmissionRequest) -> CallAdmissionFuture<'_> {
        CallAdmissionFuture {
            began: self.time.now(),
            pending: self.admission.admit(AdmissionRequest {
                is_nested: NestedMark::here().is_inside(),
                ..ask
            }),
            closed: self.closing.watch(),
        }
    }

    /// Sends one attempt of `request`, which `permit` admits. The transport checks immediately before it sends whether the rate-limit gate
    /// is still open. It closes the gate as soon as the head of a 429 response arrives.
    ///
    /// # Errors
    /// [`Held`](crate::TransportErrorKind::Held) if the gate has closed after the admission. The caller then asks for admission again, with
    /// the old arrival number to keep its queue position.
    pub async fn send(
        &self,
        permit: &mut SubmitPermit,
        request: HttpRequest,
    ) -> Result<HttpResponse, TransportError> {
        self.send_as(permit.departure(), request).await
    }

    /// Sends one attempt of a submission, unless the caller has given up the attempt or the client was closed before.
    async fn submit(
        &self,
        permit: &mut SubmitPermit,
        send_decision: &Arc<SendDecision>,
        request: HttpRequest,
    ) -> Result<HttpResponse, TransportError> {
        self.send_as(
            permit.departure().with_send_decision(send_decision),
            request,
        )
        .await
    }

    async fn send_as(
        &self,
        departure: DepartureCheck,
        mut request: HttpRequest,
    ) -> Result<HttpResponse, TransportError> {
        request.departure = departure;
        nesting::inside(|| self.transport.send(request)).await
    }

    /// Makes `call` like [`Caller::call`], but sends the first attempt with the permits of an admission that [`Caller::admit`] returned.
    /// Call this method without delay, since other requests wait for these permits.
    pub async fn call_admitted(
        &self,
        admission: CallAdmission,
        call: Call,
    ) -> Result<Accepted, Error> {
        self.make(call, admission.began, Some(admission.admitted))
            .await
    }

    async fn make(
        &self,
        mut call: Call,
        began: Timestamp,
        admitted: Option<Admitted>,
    ) -> Result<Accepted, Error> {
        let mut attempts = Attempts::new(self, began);
        let operation = call.operation;
        let outcome = {
            let mut run = pin!(attempts.run(&mut call, admitted));
            let mut closed = self.closing.watch();
            // Polls the close signal first, so that nothing is sent after the close. Uses a single await, since the state of a
            // call is large.
            poll_fn(|cx| match closed.poll(cx) {
                Poll::Ready(reason) => Poll::Ready(Err((reason, true))),
                Poll::Pending => (run.as_mut().poll(cx)).map_err(|error| (error, false)),
            })
            .await
        };
        outcome.map_err(|(mut error, is_closed)| {
            if attempts.maybe_applied || (is_closed && attempts.is_in_doubt()) {
                error = error.with_sent(Sent::MaybeSent);
            }
            match operation {
                Some(operation) => error.with_operation(operation),
                None => error,
            }
        })
    }
}

/// Returns the error for a failed response, with the message of the server.
pub fn response_error(kind: ErrorKind, response: &HttpResponse) -> Error {
    let message = tinkers_wire::error_text(&response.body);
    let message = message.unwrap_or_else(|| "the server gave no reason".to_owned());
    let kind = if says_session_lost(response.status, &message) {
        ErrorKind::SessionLost
    } else {
        kind
    };
    let advice = match kind {
        ErrorKind::SessionLost => {
            "; connect a new client, and continue training from the last checkpoint"
        }
        ErrorKind::Authentication => "; check the API key",
        ErrorKind::PermissionDenied => "; use a key with this permission",
        ErrorKind::Billing => "; pay the bill in the console",
        _ => "",
    };
    Error::new(kind, Sent::Answered, format!("{message}{advice}"))
        .with_response(response.status.as_u16(), &response.body)
}
